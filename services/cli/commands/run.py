"""Owns `penstock run`: start a run and, with --watch, see it through."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.door import Door
from services.cli.failures import CommandError
from services.cli.settings import AsJson, Data, Tenant
from services.cli.watching import watch


def run(
    workflow: Annotated[str, typer.Argument(help="NAME, or NAME@VERSION.")],
    *,
    input_: Annotated[str, typer.Option("--input", help="JSON, @FILE, or @- for standard input.")] = "{}",
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Show progress, then the output.")] = False,
    run_id: Annotated[str | None, typer.Option(help="Your own id; the same one again starts nothing new.")] = None,
    tenant: Tenant = "default",
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, for attribution; may be repeated.")] = None,
    priority: Annotated[str | None, typer.Option(help="interactive, standard or batch.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Start a run. Exit code 1 where it was watched and failed."""
    given = {"run_id": run_id, "priority": priority}
    given = {"run_id": run_id, "priority": priority}
    body: dict[str, Any] = {"workflow": workflow, "input": parsed(input_), "labels": labels(label or [])}
    body |= {name: value for name, value in given.items() if value is not None}
    door = Door(data)
    accepted = door.post("/v1/runs", body, tenant=tenant)
    if watching:
        watch(door, accepted["run_id"], tenant, as_json=as_json)
    elif as_json:
        output.as_json(accepted)
    else:
        output.console.print(f"Accepted: {output.shown(accepted['run_id'])}", highlight=False)
        suffix = "" if tenant == "default" else f" --tenant {tenant}"
        output.console.print(f"See it: penstock runs show {output.shown(accepted['run_id'])}{suffix}", style="dim")


def parsed(text: str) -> Any:
    """The input: JSON itself, or a file's."""
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read the input: {error}") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(
            f"the input is not JSON: {error}", hint="""quote it for the shell: --input '{"name": "Ada"}'"""
        ) from None


def labels(pairs: list[str]) -> dict[str, str]:
    """`key=value`, each once."""
    for pair in pairs:
        if "=" not in pair:
            raise CommandError(f"--label {pair}: expected KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)

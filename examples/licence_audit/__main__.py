"""Runs the licence audit: `python -m examples.licence_audit`, which is what `make demo` does."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.follow import NotVisibleError
from examples.licence_audit.audit import audit
from examples.licence_audit.documents import Selection, in_folder, installed, select
from examples.licence_audit.report import PLAIN_WIDTH
from examples.machine import Machine, WrongStackError, machine
from services.local.detached import SupervisorFailedError
from services.local.options import DEFAULT_DATA, Model, Options

TASK_MODULE = "examples.licence_audit.tasks"
DEFAULT_LIMIT = 8
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: python -m examples.licence_audit --documents /usr/share/common-licenses --limit 5")
def main(
    *,
    documents: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Audit a folder's text files instead.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many documents; 0 for all.")] = DEFAULT_LIMIT,
    model: Annotated[Model, typer.Option(help="The small real model, or a simulation for load.")] = "real",
    data: Annotated[Path, typer.Option(help="The folder of the local stack.")] = DEFAULT_DATA,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
) -> None:
    """Audit the licences of the packages installed here with a small model, through Kafka, end to end."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    selection = select(installed() if documents is None else in_folder(documents), limit or None)
    if not selection.documents:
        typer.echo("There is no text document to audit here.", err=True)
        raise typer.Exit(EXIT_USAGE)
    try:
        raise typer.Exit(_run(selection, model, data, console, keep=keep))
    except (WrongStackError, SupervisorFailedError, NotVisibleError) as error:
        typer.echo(f"licence audit: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _run(selection: Selection, model: Model, data: Path, console: Console, *, keep: bool) -> int:
    input_file = _write_input(selection, data)
    found = selection.found
    console.print(
        f"{len(selection.documents)} of {len(found.documents)} distinct documents will be audited "
        f"({found.duplicates} repeat another, {found.skipped} are no text or too large; all: --limit 0).",
        highlight=False,
        soft_wrap=True,
    )
    options = Options(model=model, task_modules=(TASK_MODULE,))
    with machine(data, options, console, keep=keep) as system:
        at = datetime.now(UTC)
        run_id = f"licence-audit-{at:%Y%m%d-%H%M%S}"
        run = audit(system.bootstrap_servers, system.gateway_url, selection, run_id, at, console)
        finished = asyncio.run(run)
    _print_next(console, run_id, input_file, data, system)
    return 0 if finished.status == "completed" else EXIT_FAILED


def _write_input(selection: Selection, data: Path) -> Path:
    """The run's input as a file, so that the same audit can be asked for again by other means."""
    data.mkdir(parents=True, exist_ok=True)
    file = data / "licence-audit-input.json"
    file.write_text(json.dumps(selection.input(), indent=2) + "\n", encoding="utf-8")
    return file


def _print_next(console: Console, run_id: str, input_file: Path, data: Path, system: Machine) -> None:
    penstock = _command("penstock")
    folder = "" if data == DEFAULT_DATA else f" --data {data}"
    lines = [
        (
            f"{penstock} runs show {run_id}{folder}",
            "this run's trace: each step with its attempts, tokens, time and cost",
        ),
        (f"{penstock} costs{folder}", "what runs cost, by tenant, workflow and run"),
        (f"{penstock} lag{folder}", "what waits on which topic, and for whom"),
        (
            f"{penstock} run licence-audit --input @{input_file} --watch{folder}",
            "the same audit from the command line, live",
        ),
    ]
    if system.stays:
        lines.append((f"{system.gateway_url}/", "runs and lag in a browser"))
        lines.append((f"{penstock} local down{folder}", "stop everything; the data stays"))
    else:
        start = f"{penstock} local up --detach --tasks {TASK_MODULE}{folder}"
        lines.insert(0, (start, "everything is stopped, its data is kept: start it again to look around"))
    console.print("\nWhere to look next", style="bold")
    for line, meaning in lines:
        console.print(f"  {line}", style="cyan", highlight=False, markup=False, soft_wrap=True)
        console.print(f"      {meaning}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _command(name: str) -> str:
    """How the command is called from here: as in `make setup`'s environment, where it is not on the path."""
    installed_at = Path(sys.executable).with_name(name)
    here = Path.cwd()
    return str(installed_at.relative_to(here)) if installed_at.is_relative_to(here) else name


if __name__ == "__main__":
    app(prog_name="python -m examples.licence_audit")

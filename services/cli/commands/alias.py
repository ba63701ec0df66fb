"""Owns `penstock alias`: names for versions that can be moved, with a share of the runs for canaries."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.cli import output
from services.cli.door import Door
from services.cli.failures import CommandError
from services.cli.settings import AsJson, Data

app = typer.Typer(no_args_is_help=True, help="Aliases of versions: set, list.")


@app.command("set", epilog="Example: penstock alias set greet@stable 7 --canary 8=10%")
def set_alias(
    alias: Annotated[str, typer.Argument(help="NAME@ALIAS.")],
    version: Annotated[str, typer.Argument(help="The version that it means from now on.")],
    *,
    canary: Annotated[list[str] | None, typer.Option(help="VERSION=SHARE%; may be repeated.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Move an alias. Runs that start from now on get the version, or a canary by its share; a run keeps what it got."""
    name, at, short = alias.partition("@")
    if not (name and at and short):
        raise CommandError(f"{alias}: expected NAME@ALIAS", hint="as in greet@stable")
    body = {"version": version, "canaries": [_canary(each) for each in canary or []]}
    path = f"/v1/aliases/{quote(name, safe='')}/{quote(short, safe='')}"
    _, answer = Door(data).put(path, json.dumps(body), "application/json")
    if as_json:
        output.as_json(answer)
    else:
        output.console.print(output.shown(f"{answer['name']}@{answer['alias']} is {_meaning(answer)}"), highlight=False)


@app.command("list", epilog="Example: penstock alias list --workflow greet")
def list_aliases(
    *,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow only.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List what all aliases mean."""
    page = Door(data).get("/v1/aliases", workflow=workflow)
    if as_json:
        output.as_json(page)
        return
    output.table(
        ("alias", "version", "since"),
        [
            (f"{each['name']}@{each['alias']}", _meaning(each), output.short_time(each["set_at"]))
            for each in page["aliases"]
        ],
        empty="No aliases. Set one: penstock alias set NAME@stable VERSION",
    )


def _canary(text: str) -> dict[str, Any]:
    """`VERSION=10%`."""
    version, _, share = text.rpartition("=")
    try:
        percent = float(share.removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not version or not 0 < percent <= 100:
        raise CommandError(f"--canary {text}: expected VERSION=SHARE%", hint="as in --canary 8=10%")
    return {"version": version, "percent": percent}


def _meaning(alias: dict[str, Any]) -> str:
    canaries = alias["canaries"]
    if not canaries:
        return str(alias["version"])
    left = 100 - sum(canary["percent"] for canary in canaries)
    shares = [
        f"{left:g} % {alias['version']}",
        *(f"{canary['percent']:g} % {canary['version']}" for canary in canaries),
    ]
    return ", ".join(shares)

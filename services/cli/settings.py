"""Owns where the command speaks to: a named stack, else the environment, else the local stack of this folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from services.cli.failures import EXIT_UNREACHABLE, CommandError

GATEWAY_VARIABLE = "PENSTOCK_GATEWAY_URL"
KAFKA_VARIABLE = "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS"
DATA_FOLDER = ".penstock"

Data = Annotated[
    Path | None, typer.Option(help=f"The folder of a local stack; else {GATEWAY_VARIABLE}, else {DATA_FOLDER} upward.")
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Tenant = Annotated[str, typer.Option(help="Whose runs.")]


def gateway_url(data: Path | None) -> str:
    """The gateway's address. Raises CommandError where there is none."""
    return _chosen(data, GATEWAY_VARIABLE, "gateway_url", os.environ)


def bootstrap_servers(data: Path | None) -> str:
    """Kafka's address. Raises CommandError where there is none."""
    return _chosen(data, KAFKA_VARIABLE, "bootstrap_servers", os.environ)


def _chosen(data: Path | None, variable: str, field: str, environ: Mapping[str, str]) -> str:
    if data is None and environ.get(variable):
        return environ[variable]
    file = (data / "status.json") if data is not None else _upward(Path.cwd())
    try:
        status = json.loads(file.read_bytes()) if file is not None else {}
    except FileNotFoundError:
        raise CommandError(
            f"there is no local stack in {data}", hint="start one with `penstock local up`", code=EXIT_UNREACHABLE
        ) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"cannot read {file}: {error}", code=EXIT_UNREACHABLE) from None
    address = status.get(field)
    if not address or status.get("state") == "stopped":
        raise CommandError(
            "no local stack runs here" if file is not None else f"there is no {DATA_FOLDER} here or above",
            hint=f"start one with `penstock local up`, or set {variable}",
            code=EXIT_UNREACHABLE,
        )
    return str(address)


def _upward(folder: Path) -> Path | None:
    for each in (folder, *folder.parents):
        file = each / DATA_FOLDER / "status.json"
        if file.exists():
            return file
    return None

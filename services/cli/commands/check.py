"""Owns `penstock check` and `penstock publish`: a definition is read, checked and made known."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from penstock.workflow.definition import Definition
from penstock.workflow.notation import read
from penstock.workflow.publish import version_of
from services.cli import output
from services.cli.failures import EXIT_FAILED, CommandError
from services.cli.settings import AsJson, Data

File = Annotated[Path, typer.Argument(help="A definition in YAML or JSON.")]


def check(file: File, *, as_json: AsJson = False) -> None:
    """Check a definition; every fault with its line. Exit code 1 where there are any."""
    text = _text(file)
    document = read(text)
    if as_json:
        output.as_json({"file": str(file), "faults": [asdict(fault) for fault in document.faults]})
        if document.faults:
            raise typer.Exit(EXIT_FAILED)
        return
    definition = _sound(file, text)
    output.console.print(f"{definition.name}@{version_of(definition)} is sound.", highlight=False)


def publish(file: File, *, data: Data = None, as_json: AsJson = False) -> None:
    """Publish a definition: from then on it is immutable, and runs can be started with it."""
    text = _text(file)
    definition = _sound(file, text)
    from services.cli.door import Door  # the client costs half a second that a check does not need

    code, answer = Door(data).put_yaml(f"/v1/workflows/{definition.name}", text)
    if as_json:
        output.as_json({"name": answer["name"], "version": answer["version"], "new": code == 201})
        return
    known = "Published" if code == 201 else "Already published:"
    output.console.print(f"{known} {answer['name']}@{answer['version']}", highlight=False)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {error}") from None


def _sound(file: Path, text: str) -> Definition:
    document = read(text)
    if document.definition is None or document.faults:
        details = tuple(
            f"{file}:{fault.line or 1}: {fault.path}: {fault.message}" + (f" ({fault.hint})" if fault.hint else "")
            for fault in document.faults
        )
        count = len(details)
        message = f"{file} has {count} fault" + ("s" if count > 1 else "")
        raise CommandError(message, code=EXIT_FAILED, details=details)
    return document.definition

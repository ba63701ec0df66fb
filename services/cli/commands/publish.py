"""Owns `penstock publish`: a definition is read, checked and made known, with what differs from the version before."""

from typing import Any

from pydantic import ValidationError

from penstock.workflow.definition import Definition
from penstock.workflow.differences import differences, input_breaks
from services.cli import output
from services.cli.commands.check import File, sound, text_of
from services.cli.door import Door
from services.cli.settings import AsJson, Data
from services.cli.signatures import TaskModules, known_tasks

DIFFERENCES_MAX = 40


def publish(file: File, *, tasks: TaskModules = None, data: Data = None, as_json: AsJson = False) -> None:
    """Publish a definition: from then on it is immutable, and runs can be started with it.

    Says what differs from the newest version before it, and whether inputs that fitted that one still fit.
    """
    text = text_of(file)
    definition = sound(file, text, known_tasks(tasks))
    door = Door(data)
    before = door.find(f"/v1/workflows/{definition.name}")
    # What was included travels inside of the definition: the gateway reads no files.
    whole = definition.model_dump_json(exclude_defaults=True) if definition.sources else text
    media_type = "application/json" if definition.sources else "application/yaml"
    code, answer = door.put(f"/v1/workflows/{definition.name}", whole, media_type)
    compared = before is not None and before["version"] != answer["version"] and code == 201
    since = _since(before, definition) if compared else None
    if as_json:
        output.as_json({"name": answer["name"], "version": answer["version"], "new": code == 201, "since": since})
        return
    known = "Published" if code == 201 else "Already published:"
    output.console.print(f"{known} {answer['name']}@{answer['version']}", highlight=False)
    if since is not None:
        _show(since)


def _since(before: dict[str, Any], definition: Definition) -> dict[str, Any]:
    """What differs; null where the version before is in a form that this command does not know."""
    try:
        old = Definition.model_validate(before["definition"])
    except ValidationError:
        return {"version": before["version"], "differences": None, "input_breaks": None}
    return {
        "version": before["version"],
        "differences": differences(old, definition),
        "input_breaks": input_breaks(old, definition),
    }


def _show(since: dict[str, Any]) -> None:
    print_ = output.console.print
    if since["differences"] is None:
        print_(f"{output.shown(since['version'])}, the version before, cannot be compared with it.", style="dim")
        return
    print_(f"Since {output.shown(since['version'])}:", highlight=False)
    lines = since["differences"]
    for line in lines[:DIFFERENCES_MAX]:
        print_(f"  {output.shown(line)}", highlight=False)
    if len(lines) > DIFFERENCES_MAX:
        print_(f"  … {len(lines) - DIFFERENCES_MAX} more (--json shows all)", style="dim", highlight=False)
    if not since["input_breaks"]:
        print_("  inputs that fitted still fit", style="green", highlight=False)
    for line in since["input_breaks"]:
        print_(f"  [red]callers:[/] {output.shown(line)}", highlight=False)

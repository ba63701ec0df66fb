"""Owns `penstock publish`: a definition is read, checked and made known."""

from services.cli import output
from services.cli.commands.check import File, sound, text_of
from services.cli.door import Door
from services.cli.settings import AsJson, Data


def publish(file: File, *, data: Data = None, as_json: AsJson = False) -> None:
    """Publish a definition: from then on it is immutable, and runs can be started with it."""
    text = text_of(file)
    definition = sound(file, text)
    # What was included travels inside of the definition: the gateway reads no files.
    whole = definition.model_dump_json(exclude_defaults=True) if definition.sources else text
    media_type = "application/json" if definition.sources else "application/yaml"
    code, answer = Door(data).put(f"/v1/workflows/{definition.name}", whole, media_type)
    if as_json:
        output.as_json({"name": answer["name"], "version": answer["version"], "new": code == 201})
        return
    known = "Published" if code == 201 else "Already published:"
    output.console.print(f"{known} {answer['name']}@{answer['version']}", highlight=False)

"""Owns templates in files of their own: read beside the definition, put into it, remembered by their content's hash.

A definition is immutable and whole, so what is published holds the text; `sources` says where it came from.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from penstock.workflow.faults import Fault, Lines, fault
from penstock.workflow.faults import Path as Place

TEMPLATE_FIELDS: Final = frozenset({"prompt", "system", "user", "assistant"})
"""The fields that may say `{file: …}` instead of a text."""
FOREIGN_FIELDS: Final = frozenset({"arguments", "input", "labels", "output"})
"""What stands in these, and in what ends in `schema`, is the author's own JSON."""
FILES_MAX: Final = 256
FILE_BYTES_MAX: Final = 262_144


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A body with its files put in. `files` says which text came from where, `sources` what those files hold."""

    body: Any
    files: Mapping[Place, str]
    sources: Mapping[str, str]
    faults: tuple[Fault, ...]


def include(body: Any, folder: Path | None, lines: Lines) -> Inclusion:
    """Puts the files that a body names in their places. Without a folder there are none, and each is a fault."""
    reader = _Includer(folder, lines)
    inlined = reader.walk(body, ())
    if reader.sources and isinstance(inlined, dict):
        known = inlined.get("sources")
        inlined["sources"] = {**(known if isinstance(known, dict) else {}), **reader.sources}
    return Inclusion(inlined, reader.files, reader.sources, tuple(reader.faults))


class RefusedFileError(ValueError):
    """A file that cannot be included; the message says why."""


@dataclass(slots=True)
class _Includer:
    folder: Path | None
    lines: Lines
    files: dict[Place, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    def walk(self, value: Any, place: Place) -> Any:
        """A value with its files put in."""
        if isinstance(value, list):
            return [self.walk(item, (*place, index)) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        found: dict[str, Any] = {}
        for name, item in value.items():
            at = (*place, name)
            if name in FOREIGN_FIELDS or str(name).endswith("schema"):
                found[name] = item
            elif name in TEMPLATE_FIELDS and isinstance(item, dict) and item.keys() == {"file"}:
                found[name] = self.text(item["file"], (*at, "file"))
                self.files[at] = str(item["file"])
            else:
                found[name] = self.walk(item, at)
        return found

    def text(self, name: Any, place: Place) -> str:
        """The text of a file; empty where it cannot be read, which is a fault."""
        if not isinstance(name, str):
            self.faults.append(fault(place, "a file is named by text", lines=self.lines))
            return ""
        try:
            if name not in self.texts:
                self.texts[name] = self.read(name)
            return self.texts[name]
        except RefusedFileError as error:
            self.faults.append(fault(place, str(error), lines=self.lines))
            return ""

    def read(self, name: str) -> str:
        if self.folder is None:
            raise RefusedFileError("files are read where a definition is itself read from a file, and not here")
        if len(self.texts) == FILES_MAX:
            raise RefusedFileError(f"more than {FILES_MAX} files are included")
        try:
            content = _content(self.folder.resolve(), name)
            text = content.decode()
        except UnicodeDecodeError:
            raise RefusedFileError(f"`{name}` is not UTF-8") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RefusedFileError(f"`{name}` cannot be read: {reason}") from None
        self.sources[name] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return text


def _content(folder: Path, name: str) -> bytes:
    """The bytes of a file inside a folder. Raises OSError or ValueError for any other."""
    at = (folder / name).resolve()
    if Path(name).is_absolute() or not at.is_relative_to(folder):
        raise ValueError("it lies outside of the definition's folder")
    if not at.is_file():
        raise ValueError("there is no such file" if not at.exists() else "it is not a plain file")
    with at.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes")
    return content

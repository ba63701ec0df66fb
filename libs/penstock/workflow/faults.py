"""Owns how faults in a definition are said: where, what, and what to do about it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from penstock.workflow.schemas import json_path

Path = tuple[str | int, ...]
Lines = Mapping[Path, int]
LITERAL: Final = "|"
"""Ends the path of a literal block's first line: no field has this name."""
Files = Mapping[Path, str]
"""Which texts of a definition came from files of their own."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `path` is a JSON path into the definition; `line` is known where it was read from a file.

    `file` is empty where that is the definition's own, else the included file's name, beside the definition.
    """

    path: str
    message: str
    hint: str = ""
    line: int | None = None
    file: str = ""

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        file = f"{self.file}: " if self.file else ""
        return f"{file}{line}{self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    def located(self, definition: PurePath) -> str:
        """As editors and terminals find it: `workflows/greet.yaml:7: $.do.prompt: …`."""
        file = definition.parent / self.file if self.file else definition
        return f"{file}:{self.line or 1}: {self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the parts of a definition stand: their lines, and the files that texts were included from."""

    lines: Lines
    files: Files

    def fault(self, path: Path, message: str, hint: str, line: int) -> Fault:
        """A fault at `path`; `line` counts from 1 in the text there."""
        file = self.files.get(path, "")
        if not file:
            first = self.lines.get((*path, LITERAL))
            within = None if first is None else first + line - 1
            return Fault(json_path(path), message, hint, within or line_of(path, self.lines))
        return Fault(json_path(path), message, hint, line, file)


def fault(path: Path, message: str, hint: str = "", lines: Lines | None = None) -> Fault:
    """A fault at `path`, with the line of the nearest part of it that has one."""
    return Fault(json_path(path), message, hint, line_of(path, lines or {}))


def line_of(path: Path, lines: Lines) -> int | None:
    """The line of a path, else that of what holds it."""
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def nearest(name: str, known: Iterable[str], what: str = "") -> str:
    """A hint: the known name that is most like this one, else the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    if not names:
        return f"there are no {what}" if what else ""
    return "there are: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")

"""Owns how faults in a definition are said: where, what, and what to do about it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.workflow.schemas import json_path

Path = tuple[str | int, ...]
Lines = Mapping[Path, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `path` is a JSON path into the definition; `line` is known where it was read from a file."""

    path: str
    message: str
    hint: str = ""
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}: "
        return f"{line}{self.path}: {self.message}" + (f" ({self.hint})" if self.hint else "")


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

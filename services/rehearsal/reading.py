"""Owns how tests are found and read: the files, their faults by line, and the definition that each case runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from penstock.workflow.definition import Definition
from penstock.workflow.faults import Fault
from penstock.workflow.notation import Document, NotationError, faults_of, parse, read, values
from services.rehearsal.script import Case, Script

SUFFIX: Final = ".test.yaml"
_PASSED_BY: Final = frozenset({"node_modules", "__pycache__"})


class UnreadableError(ValueError):
    """A test file, or a definition that it names, cannot be used; `faults` say why, by file and line."""

    def __init__(self, message: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class ReadyCase:
    """A case with the definition that it runs."""

    case: Case
    definition: Definition
    children: Mapping[str, Definition]
    """The workflows that its run steps can start, by what they call them."""


@dataclass(frozen=True, slots=True)
class ReadyScript:
    """A test file, read."""

    file: Path
    script: Script
    cases: tuple[ReadyCase, ...]


def found(path: Path) -> list[Path]:
    """The test files at or below a path, in order. Raises UnreadableError where there is nothing."""
    if path.is_file():
        return [path if path.name.endswith(SUFFIX) else _beside(path)]
    if not path.is_dir():
        raise UnreadableError(f"there is no {path}")
    return sorted(_walked(path))


def read_script(file: Path) -> ReadyScript:
    """A test file with its definitions. Raises UnreadableError."""
    try:
        body, lines = values(_text(file))
    except NotationError as error:
        raise _faulty(file, error.faults) from None
    try:
        script = Script.model_validate(body)
    except ValidationError as error:
        raise _faulty(file, faults_of(error, Script, body, lines)) from None
    known: dict[str, Definition] = {}
    children = {called: _named(file, name, known) for called, name in script.workflows.items()}
    cases = tuple(ReadyCase(case, _definition(file, script, case, known), children) for case in script.cases)
    return ReadyScript(file, script, cases)


def _definition(file: Path, script: Script, case: Case, known: dict[str, Definition]) -> Definition:
    wanted = case.workflow if case.workflow is not None else script.workflow
    if isinstance(wanted, dict):
        return _sound(file, parse(wanted, folder=file.parent), f"{case.name}: " if case.workflow is not None else "")
    return _named(file, wanted if wanted is not None else file.name.removesuffix(SUFFIX) + ".yaml", known)


def _named(file: Path, name: str, known: dict[str, Definition]) -> Definition:
    if name not in known:
        at = file.parent / name
        if not at.is_file():
            hint = "name it under `workflow`, or put the test beside a definition of the same name"
            raise UnreadableError(f"{file}: there is no definition {at}; {hint}")
        known[name] = _sound(at, read(_text(at), at.parent), "")
    return known[name]


def _sound(file: Path, document: Document, where: str) -> Definition:
    if document.definition is None or document.faults:
        raise _faulty(file, document.faults, where)
    return document.definition


def _faulty(file: Path, faults: tuple[Fault, ...], where: str = "") -> UnreadableError:
    said = tuple(replace(fault, message=where + fault.message).located(file) for fault in faults)
    return UnreadableError(f"{file} has {len(said)} fault" + ("s" if len(said) > 1 else ""), said)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"cannot read {file}: {error}") from None


def _beside(definition: Path) -> Path:
    """The tests of a definition: the file of the same name."""
    file = definition.with_name(definition.stem + SUFFIX)
    if not file.is_file():
        raise UnreadableError(f"there are no tests beside {definition}; write {file.name}")
    return file


def _walked(folder: Path) -> Iterator[Path]:
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            if not each.name.startswith(".") and each.name not in _PASSED_BY:
                yield from _walked(each)
        elif each.name.endswith(SUFFIX):
            yield each


def plain(definition: Definition) -> dict[str, Any]:
    """A definition as its author would write it: without what is at its default."""
    return definition.model_dump(mode="json", exclude_defaults=True)

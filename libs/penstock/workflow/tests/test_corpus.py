"""Owns the promise that every fault is said as it should be: a broken definition for each rule, and its exact message.

The first line of each file in corpus/ is what `penstock check` says of it; the file's name is the rule. Whoever writes
a rule adds a file: a fault that no file brings about fails the last test.
"""

import ast
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

import jsonschema_rs
import pytest

from penstock.workflow import checks, editor, flow, included, notation, shapes
from penstock.workflow.definition import BLOCK_KINDS
from penstock.workflow.faults import Fault
from penstock.workflow.notation import NotationError, read, values
from penstock.workflow.task import Signature

CORPUS: Final = Path(__file__).parent / "corpus"
FILES: Final = sorted(CORPUS.glob("*.yaml"))
KINDS: Final = ", ".join(f"`{kind}`" for kind in BLOCK_KINDS)
"""Stands as <block kinds> in the files, so that a new kind changes none of them."""

ELSEWHERE: Final = {
    "the text is longer than": "a file of 131,073 characters: test_notation",
    "files are read where a definition is itself": "without a folder: test_included",
    "more than {BLOCKS_MAX}": "a definition of 5,001 blocks: test_checks",
    "more than {FILES_MAX}": "257 files: test_included",
    "it has more than {FILE_BYTES_MAX}": "a file of 256 KiB: test_included",
    "nested too deep": "depends on how deep the interpreter's stack is; brackets and levels are bounded before",
    "not YAML: {error}": "what PyYAML may yet think of",
    "cannot be read: {reason}": "brought about by the files that cannot be read",
}
"""Faults that no file here brings about, by a part of their source, and why."""


TASKS: Final = {
    "mail.send": Signature(
        input={
            "type": "object",
            "properties": {"to": {"type": "string"}, "urgent": {"type": "boolean"}, "lines": {"type": "array"}},
            "required": ["to"],
            "additionalProperties": False,
        },
        output={},
    )
}
"""The tasks that there are, for the files called `task-…`; elsewhere it is not known which there are."""


def faults_in(file: Path) -> tuple[Fault, ...]:
    """The faults of one broken definition."""
    return read(file.read_text(), CORPUS, TASKS if file.stem.startswith("task-") else None).faults


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_broken_definition_has_its_own_fault_and_no_other(file: Path) -> None:
    text = file.read_text()

    said = [str(fault).replace(KINDS, "<block kinds>") for fault in faults_in(file)]

    assert said == [text.partition("\n")[0].removeprefix("# ")]


def test_no_two_rules_say_the_same() -> None:
    assert len(FILES) >= 100
    assert [
        said for said, count in Counter(file.read_text().partition("\n")[0] for file in FILES).items() if count > 1
    ] == []


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.stem.startswith("structure-")], ids=lambda file: file.stem
)
def test_what_is_wrong_with_the_structure_editors_see_too(file: Path) -> None:
    body, _ = values(file.read_text())

    assert not jsonschema_rs.is_valid(editor.schema(), body)


@pytest.mark.parametrize(
    "file", [file for file in FILES if not file.stem.startswith("structure-")], ids=lambda file: file.stem
)
def test_what_is_wrong_otherwise_passes_as_structure(file: Path) -> None:
    """Guard: the files are named by where their fault is found."""
    try:
        body, _ = values(file.read_text())
    except NotationError:
        assert file.stem.startswith("yaml-")
        return
    if file.stem != "file-name-is-no-text":
        jsonschema_rs.validate(editor.schema(), body)


def places_of_faults() -> dict[tuple[str, int], str]:
    """Where faults are made: each simple statement that makes one, by file and line, with its source."""
    modules = [notation, included, shapes]
    folders = [Path(package.__file__ or "").parent for package in (checks, flow)]
    files = [Path(module.__file__ or "") for module in modules] + [
        file for each in folders for file in each.glob("*.py")
    ]
    found: dict[tuple[str, int], str] = {}
    for file in files:
        source = file.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Expr | ast.Return | ast.Raise | ast.Assign) and any(
                map(_makes_a_fault, ast.walk(node))
            ):
                found[str(file), node.lineno] = ast.get_source_segment(source, node) or ""
    return found


def _makes_a_fault(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="checker" | "self" | "flow"), attr="add")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="_flow"), attr="add")):
            return True
        case ast.Call(func=ast.Name(id="fault" | "Fault" | "_refused" | "RefusedFileError" | "Missing")):
            return True
        case ast.Raise(exc=ast.Call(func=ast.Name(id="ValueError"))):
            return True
        case _:
            return False


def lines_run(files: set[str]) -> set[tuple[str, int]]:
    """The lines of some files that are run while the corpus is read."""
    run: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        if event == "line":
            run.add((name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for file in FILES:
            faults_in(file)
    finally:
        sys.settrace(before)
    return run


def test_every_rule_is_broken_by_some_file() -> None:
    places = places_of_faults()
    assert len(places) > 60

    missed = set(places) - lines_run({file for file, _ in places})

    unexplained = [
        f"{Path(file).name}:{line}: {places[file, line]}"
        for file, line in sorted(missed)
        if not any(part in places[file, line] for part in ELSEWHERE)
    ]
    assert unexplained == [], "add a file to corpus/ that brings this fault about"

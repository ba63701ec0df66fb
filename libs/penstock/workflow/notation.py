"""Owns how a definition is written down: YAML or JSON into a Definition, every fault with its path and line.

YAML is read as JSON would be: `yes`, `on` and `2026-01-01` are text, numbers are decimal, a key stands once.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from penstock.workflow.checks import check
from penstock.workflow.checks.checker import Tasks
from penstock.workflow.definition import BLOCK_KINDS, PARALLEL_KINDS, Definition
from penstock.workflow.faults import LITERAL, Fault, Lines, Path, fault, nearest
from penstock.workflow.included import include
from penstock.workflow.loops import GRANT_KINDS
from penstock.workflow.parts import UNDO_KINDS

TEXT_CHARACTERS_MAX: Final = 131_072
"""PyYAML reads some 100,000 characters a second; larger definitions are made by programs and come as JSON."""
VALUES_MAX: Final = 100_000
DEPTH_MAX: Final = 200
BRACKETS_MAX: Final = 100
"""PyYAML's time grows with the square of the open brackets: 5,000 of them take 17 seconds."""

_BRACKET: Final = re.compile(r"[\[\]{}]")


@dataclass(frozen=True, slots=True)
class Document:
    """What was read: the definition where it has a shape at all, and everything that is wrong with it."""

    definition: Definition | None
    faults: tuple[Fault, ...]


class NotationError(ValueError):
    """The text is no sound definition; `faults` say why."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def load(text: str, folder: FilePath | None = None, tasks: Tasks | None = None) -> Definition:
    """A definition without faults from YAML text (JSON is YAML). Raises NotationError.

    Files that it includes are read from `folder`; without one there are none. `tasks` as in `check`.
    """
    document = read(text, folder, tasks)
    if document.definition is None or document.faults:
        raise NotationError(document.faults)
    return document.definition


def read(text: str, folder: FilePath | None = None, tasks: Tasks | None = None) -> Document:
    """Reads and checks YAML text; faults carry their line. Files that it includes are read from `folder`."""
    try:
        body, lines = values(text)
    except NotationError as error:
        return Document(None, error.faults)
    return parse(body, lines, folder, tasks)


def values(text: str) -> tuple[Any, Lines]:
    """The JSON value that YAML text says, and the line of each part of it. Raises NotationError."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise NotationError((fault((), f"the text is longer than {TEXT_CHARACTERS_MAX} characters"),))
    if _brackets_open(text) > BRACKETS_MAX:
        raise NotationError((fault((), f"more than {BRACKETS_MAX} brackets are open at once"),))
    lines: dict[Path, int] = {}
    try:
        node = yaml.compose(text, Loader=_Loader)
        return (None if node is None else _Reader(lines).value(node, ())), lines
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise NotationError((Fault("$", f"not YAML: {error.problem or error.context}", line=line),)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotationError((Fault("$", f"not YAML: the character #x{error.character:04x}", line=line),)) from None
    except yaml.YAMLError as error:
        raise NotationError((Fault("$", f"not YAML: {error}"),)) from None
    except RecursionError:
        raise NotationError((Fault("$", "nested too deep"),)) from None


def parse(
    body: Any, lines: Lines | None = None, folder: FilePath | None = None, tasks: Tasks | None = None
) -> Document:
    """Checks a definition's body, as it comes over HTTP or from `read`."""
    lines = lines or {}
    try:
        included = include(body, folder, lines)
        if included.faults:
            return Document(None, included.faults)
        definition = Definition.model_validate(included.body)
    except ValidationError as error:
        return Document(None, faults_of(error, Definition, included.body, lines))
    except RecursionError:
        return Document(None, (Fault("$", "nested too deep"),))
    return Document(definition, tuple(check(definition, lines, included.files, tasks)))


def faults_of(error: ValidationError, model: type[BaseModel], body: Any, lines: Lines) -> tuple[Fault, ...]:
    """What pydantic found wrong with a body of `model`, as the person who wrote it would say it."""
    return tuple(_translated(each, model, body, lines) for each in error.errors(include_url=False))


def _brackets_open(text: str) -> int:
    """How many brackets are open at most; those in quoted text count, which balances in what people write."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema: what JSON knows, in its spelling."""


SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
)
"""What plain text is read as where it is not text: the type, its pattern, the characters that it can begin with."""


def reads_scalars(loader: type[yaml.resolver.Resolver]) -> None:
    """Adds SCALARS to what a loader or a dumper takes plain text for."""
    for tag, pattern, first in SCALARS:
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), first)


_Loader.yaml_implicit_resolvers = {}
reads_scalars(_Loader)


class _Reader:
    """Turns YAML nodes into JSON values and notes each one's line."""

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines = lines
        self._left = VALUES_MAX

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The value of a node. Raises MarkedYAMLError for what JSON cannot hold."""
        self._left -= 1
        if self._left < 0 or len(path) > DEPTH_MAX:
            # Aliases make a small text a huge value, or one without an end.
            raise _refused(node, f"more than {VALUES_MAX} values or {DEPTH_MAX} levels")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.style == "|":
            # A literal block keeps its lines, so that a fault inside of it can name its own.
            self._lines[(*path, LITERAL)] = node.start_mark.line + 2
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused(key_node, "a key must be text")
            key = str(key_node.value)
            if key in result:
                raise _refused(key_node, f"the key `{key}` stands twice")
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if len(text) <= 20:
            return int(text)
        case "float" if math.isfinite(float(text)):
            return float(text)
        case other:
            raise _refused(node, f"`{text[:40]}` ({other}) is not a JSON value")


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _translated(error: ErrorDetails, root: type[BaseModel], body: Any, lines: Lines) -> Fault:
    """A pydantic error as a person wrote the text: without its tags, with the nearest name."""
    path, model = _located(error["loc"], root)
    name = str(path[-1]) if path else ""
    match error["type"]:
        case "missing":
            # The line of what lacks the field; the path of the field.
            return fault(path, f"the field `{name}` is missing", lines=lines)
        case "extra_forbidden":
            known = [field for field in model.model_fields if field not in _at(body, path[:-1])]
            return fault(path, f"there is no field `{name}` here", nearest(name, known, "other fields"), lines)
        case "block_kind" | "union_tag_not_found":
            return _no_kind(path, _at(body, path), lines)
        case "string_pattern_mismatch":
            pattern = error.get("ctx", {}).get("pattern", "")
            return fault(path, f"`{str(error['input'])[:80]}` does not match {pattern}", lines=lines)
        case "model_type" | "model_attributes_type" | "dict_type":
            whole = not path and root is Definition
            needs = "a definition is an object with `name` and `do`" if whole else "this must be an object"
            return fault(path, needs, lines=lines)
        case _:
            return fault(path, error["msg"], lines=lines)


def _no_kind(path: Path, value: Any, lines: Lines) -> Fault:
    kinds, what = _kinds_at(path)
    needs = "exactly one of " + ", ".join(f"`{kind}`" for kind in kinds)
    if not isinstance(value, dict):
        return fault(path, f"a {what} is an object with {needs}", lines=lines)
    present = [kind for kind in kinds if kind in value]
    if present:
        return fault(
            path, f"this {what} has {' and '.join(f'`{kind}`' for kind in present)}; it needs {needs}", lines=lines
        )
    hints = [nearest(str(key), kinds) for key in value]
    hint = next((hint for hint in hints if hint.startswith("did you mean")), "")
    return fault(path, f"this {what} has no kind; it needs {needs}", hint, lines)


def _kinds_at(path: Path) -> tuple[tuple[str, ...], str]:
    """The fields one of which says what stands at a path, and what such a thing is called."""
    if path and path[-1] == "parallel":
        return PARALLEL_KINDS, "block"
    if path and path[-1] == "undo":
        return UNDO_KINDS, "undo"
    if path[-2:-1] == ("tools",):
        return GRANT_KINDS, "grant"
    return BLOCK_KINDS, "block"


def _located(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[Path, type[BaseModel]]:
    """The path in the author's text (pydantic's also names unions' branches), and the model it is a field of."""
    path: list[str | int] = []
    model = root
    annotation: Any = root
    for part in location:
        if part == "[key]":
            continue
        annotation, branch = _inside(annotation, part)
        if not branch:
            path.append(part)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return tuple(path), model


def _inside(annotation: Any, part: int | str) -> tuple[Any, bool]:
    """The type that `part` leads to from a type, and whether it only chose a branch of a union."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return (Any if field is None else _plain(field.annotation)), False
    arguments = get_args(annotation)
    if get_origin(annotation) in (list, dict):
        return _plain(arguments[-1]), False
    for branch in arguments:
        if get_origin(branch) is Annotated and any(isinstance(m, Tag) and m.tag == part for m in get_args(branch)[1:]):
            return get_args(branch)[0], True
    return Any, False


def _plain(annotation: Any) -> Any:
    """A type without what is said about it, and without `| None`."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        kinds = [each for each in get_args(annotation) if each is not NoneType]
        return _plain(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _at(body: Any, path: Path) -> Any:
    """What stands at a path of the author's text; an empty object where nothing does."""
    for part in path:
        try:
            body = body[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return body

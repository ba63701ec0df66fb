"""Owns what all checks of blocks share: where a block stands, what is in scope there, how faults are collected."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from penstock.workflow.allowed import FUNCTIONS
from penstock.workflow.definition import SCOPE_NAMES, Block, Definition, every_block
from penstock.workflow.expressions import (
    Compiled,
    ExpressionError,
    Reference,
    compile_expression,
    compile_text,
    compile_value,
)
from penstock.workflow.faults import Fault, Origins, Path, nearest
from penstock.workflow.flow import templates
from penstock.workflow.flow.known import Trouble
from penstock.workflow.loops import LOOP_NAMES
from penstock.workflow.parts import Leaf
from penstock.workflow.schemas import SchemaError, compile_schema
from penstock.workflow.shapes import Shape, closed, constant, list_of, union
from penstock.workflow.task import Signature

DEPTH_MAX: Final = 32
BLOCKS_MAX: Final = 5_000
RESERVED: Final = SCOPE_NAMES | FUNCTIONS | {"loop", "self", "true", "false", "none", "not", "and", "or", "in", "is"}

Scope = dict[str, Shape]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block stands: its path in the definition, what is in scope there, how deeply it is nested."""

    path: Path
    scope: Scope
    depth: int = 1

    def inside(self, *path: str | int, **names: Shape) -> "Place":
        """A place within this block, with more names in scope."""
        return Place((*self.path, *path), {**self.scope, **names} if names else self.scope, self.depth + 1)

    def after(self, condition: str, *, holds: bool) -> "Place":
        """The same place, where a condition is known to hold, or not to."""
        return replace(self, scope=templates.after(condition.strip(), self.scope, holds=holds))


Tasks = Mapping[str, Signature]
"""What the tasks take and give that workers run, by name."""
Check = Callable[["Checker", Any, Place], Shape]
"""Checks a block of one kind where it stands; answers with the shape of its output."""


class Checker:
    """Walks the blocks with what is in scope at each, and collects the faults."""

    def __init__(
        self, definition: Definition, origins: Origins, kinds: Mapping[type, Check], tasks: Tasks | None = None
    ) -> None:
        self.faults: list[Fault] = []
        self.tiers = definition.tiers
        self.budget = definition.budget
        self.deadline_seconds = definition.deadline_seconds
        self.tasks = tasks
        self._origins = origins
        self._kinds = kinds
        self._seen: dict[str, Path] = {}
        self._all_ids = frozenset(block.id for block in every_block(definition.do))

    def block(self, block: Block, place: Place) -> Shape:
        """Checks a block; answers with the shape of its output."""
        self._id(block.id, place)
        if place.depth > DEPTH_MAX:
            self.add(place.path, f"blocks are nested deeper than {DEPTH_MAX} levels")
            return None
        if len(self._seen) == BLOCKS_MAX:
            self.add(place.path, f"there are more than {BLOCKS_MAX} blocks")
        shape = self._kinds[type(block)](self, block, place)
        if isinstance(block, Leaf) and block.undo is not None:
            self._kinds[type(block.undo)](self, block.undo, place.inside("undo", output=shape))
        return shape

    def tier(self, name: str, path: Path) -> None:
        """Checks that a tier is one of the definition's."""
        if name not in self.tiers:
            hint = nearest(name, self.tiers, "tiers; name one under `tiers`")
            self.add(path, f"there is no tier `{name}`", hint)

    def schema(self, schema: dict[str, Any] | None, path: Path) -> None:
        """Checks that a JSON Schema is one."""
        try:
            compile_schema(schema)
        except SchemaError as error:
            self.add(path, f"not a JSON Schema: {error}")

    def value(self, value: Any, path: Path, scope: Scope) -> Shape:
        """Checks JSON with templates in its strings; answers with the shape of what it becomes."""
        try:
            compiled = compile_value(value)
        except ExpressionError as error:
            self.add((*path, *error.where), str(error))
            return None
        self._references(compiled, path, scope)
        return self._flowing(value, path, scope)

    def text(self, source: str, path: Path, scope: Scope) -> None:
        """Checks a template whose value is text."""
        try:
            self._references(compile_text(source), path, scope)
        except ExpressionError as error:
            self.add(path, str(error), line=error.line)
            return
        with contextlib.suppress(templates.UnreadableError):
            self._troubled(templates.of_text(source, scope), path)

    def expression(self, source: str, path: Path, scope: Scope) -> Compiled | None:
        """Checks a bare expression; None where it does not compile."""
        return self.typed(source, path, scope)[0]

    def typed(self, source: str, path: Path, scope: Scope) -> tuple[Compiled | None, Shape]:
        """Checks a bare expression; answers with the shape of its value, too."""
        try:
            compiled = compile_expression(source)
        except ExpressionError as error:
            self.add(path, str(error))
            return None, None
        self._references(compiled, path, scope)
        try:
            shape, troubles = templates.of_expression(source.strip(), scope)
        except templates.UnreadableError:
            return compiled, None
        self._troubled(troubles, path)
        return compiled, shape

    def _flowing(self, value: Any, path: Path, scope: Scope) -> Shape:
        match value:
            case dict():
                return closed({name: self._flowing(item, (*path, name), scope) for name, item in value.items()})
            case list():
                items = [self._flowing(item, (*path, index), scope) for index, item in enumerate(value)]
                return list_of(union(*items) if items else None, len(items))
            case str():
                try:
                    shape, troubles = templates.of_string(value, scope)
                except templates.UnreadableError:
                    return None
                self._troubled(troubles, path)
                return shape
            case _:
                return constant(value)

    def _troubled(self, troubles: list[Trouble], path: Path) -> None:
        for trouble in troubles:
            self.add(path, trouble.message, trouble.hint, trouble.line)

    def _references(self, compiled: Compiled, path: Path, scope: Scope) -> None:
        for reference in compiled.references:
            if reference.name not in scope:
                self._dangling(reference, (*path, *reference.where), scope)

    def _dangling(self, reference: Reference, path: Path, scope: Scope) -> None:
        name, line = reference.name, _line_of(reference)
        if name in ("item", "index"):
            inside = "a map" if name == "item" else "a map or a vote"
            self.add(path, f"`{name}` stands for something only inside {inside}", line=line)
        elif name in self._all_ids:
            here = ", ".join(sorted(scope))
            text = f"the step `{name}` has not ended before this one in the same chain or in one around it"
            self.add(path, text, f"here are: {here}", line)
        elif name in LOOP_NAMES:
            self.add(path, f"`{name}` stands for something only inside {LOOP_NAMES[name]}", line=line)
        else:
            self.add(path, f"nothing is called `{name}` here", nearest(name, scope), line)

    def _id(self, block_id: str, place: Place) -> None:
        path = place.path
        at = (*path, "id")
        if block_id in RESERVED:
            self.add(at, f"`{block_id}` is a name of the language", "choose another id")
        elif block_id in LOOP_NAMES and block_id in place.scope:
            self.add(at, f"`{block_id}` is what {LOOP_NAMES[block_id]} calls something here", "choose another id")
        elif block_id in self._seen:
            self.add(at, f"the id `{block_id}` is taken", "ids are unique within a definition")
        self._seen.setdefault(block_id, path)

    def add(self, path: Path, message: str, hint: str = "", line: int = 1) -> None:
        """A fault at a path; `line` counts from 1 in the text there."""
        self.faults.append(self._origins.fault(path, message, hint, line))


def _line_of(reference: Reference) -> int:
    """The first line of a template that names what is referred to."""
    found = re.search(rf"\b{re.escape(reference.name)}\b", reference.source)
    return 1 if found is None else reference.source.count("\n", 0, found.start()) + 1

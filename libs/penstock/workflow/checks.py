"""Owns what is checked when a definition is published: everything that can be known before it runs."""

from collections.abc import Iterator
from typing import Any, Final

from penstock.workflow.allowed import FUNCTIONS
from penstock.workflow.definition import (
    SCOPE_NAMES,
    Block,
    Chain,
    Definition,
    Map,
    ModelStep,
    Parallel,
    RouteBlock,
    Sections,
    TaskStep,
    ToolStep,
)
from penstock.workflow.expressions import (
    Compiled,
    ExpressionError,
    Reference,
    compile_expression,
    compile_text,
    compile_value,
)
from penstock.workflow.faults import Fault, Lines, Path, fault, nearest
from penstock.workflow.schemas import SchemaError, compile_schema
from penstock.workflow.shapes import (
    TEXT,
    Missing,
    Shape,
    closed,
    field_of,
    item_of,
    list_of,
    types_of,
)

DEPTH_MAX: Final = 32
BLOCKS_MAX: Final = 5_000
OTHERWISE: Final = "otherwise"
RESERVED: Final = SCOPE_NAMES | FUNCTIONS | {"loop", "self", "true", "false", "none", "not", "and", "or", "in", "is"}
RUN: Final = closed({name: TEXT for name in ("id", "tenant", "workflow", "version", "started_at")} | {"labels": None})

Scope = dict[str, Shape]

_NO_SCOPE: Final[dict[str, Any]] = {}


def check(definition: Definition, lines: Lines | None = None) -> list[Fault]:
    """All faults of a definition, in its order; none means that it can be published."""
    checker = _Checker(definition, lines or {})
    checker.schema(definition.input, ("input",))
    checker.block(definition.do, ("do",), {"input": definition.input or None, "run": RUN}, 1)
    return checker.faults


class _Checker:
    """Walks the blocks with what is in scope at each."""

    def __init__(self, definition: Definition, lines: Lines) -> None:
        self.faults: list[Fault] = []
        self._tiers = definition.tiers
        self._lines = lines
        self._seen: dict[str, Path] = {}
        self._all_ids = frozenset(_ids(definition.do))

    def block(self, block: Block, path: Path, scope: Scope, depth: int) -> Shape:
        """Checks a block; answers with the shape of its output."""
        self._id(block.id, path)
        if depth > DEPTH_MAX:
            self._add(path, f"blocks are nested deeper than {DEPTH_MAX} levels")
            return None
        if len(self._seen) == BLOCKS_MAX:
            self._add(path, f"there are more than {BLOCKS_MAX} blocks")
        match block:
            case Chain():
                return self._chain(block, path, scope, depth)
            case RouteBlock():
                return self._route(block, path, scope, depth)
            case Parallel():
                return self._parallel(block, path, scope, depth)
            case ModelStep():
                self._model(block, path, scope)
                return block.output_schema if block.output_schema is not None else TEXT
            case ToolStep():
                self._value(block.arguments, (*path, "arguments"), scope)
            case TaskStep():
                self._value(block.input, (*path, "input"), scope)
        self.schema(block.output_schema, (*path, "output_schema"))
        return block.output_schema

    def schema(self, schema: dict[str, Any] | None, path: Path) -> None:
        """Checks that a JSON Schema is one."""
        try:
            compile_schema(schema)
        except SchemaError as error:
            self._add(path, f"not a JSON Schema: {error}")

    def _chain(self, block: Chain, path: Path, scope: Scope, depth: int) -> Shape:
        inner = dict(scope)
        shape: Shape = None
        for index, child in enumerate(block.chain):
            shape = self.block(child, (*path, "chain", index), inner, depth + 1)
            inner[child.id] = shape
        if block.output is None:
            return shape
        self._value(block.output, (*path, "output"), inner)
        return closed(dict.fromkeys(block.output)) if isinstance(block.output, dict) else None

    def _route(self, block: RouteBlock, path: Path, scope: Scope, depth: int) -> Shape:
        names: set[str] = set()
        for index, case in enumerate(block.route):
            at = (*path, "route", index)
            if case.case in names or case.case == OTHERWISE:
                self._add((*at, "case"), f"the case `{case.case}` is taken", "each case needs a name of its own")
            names.add(case.case)
            self._expression(case.when, (*at, "when"), scope)
            self.block(case.do, (*at, "do"), scope, depth + 1)
        if block.otherwise is not None:
            self.block(block.otherwise, (*path, "otherwise"), scope, depth + 1)
        return None

    def _parallel(self, block: Parallel, path: Path, scope: Scope, depth: int) -> Shape:
        inner = block.parallel
        at = (*path, "parallel")
        match inner:
            case Sections():
                shapes = {
                    child.id: self.block(child, (*at, "sections", index), scope, depth + 1)
                    for index, child in enumerate(inner.sections)
                }
                return closed(shapes) if inner.join == "all" else closed(dict.fromkeys(shapes))
            case Map():
                items = self._items(inner, (*at, "map"), scope)
                branch = {**scope, "item": items, "index": {"type": "integer"}}
                shape = self.block(inner.do, (*at, "do"), branch, depth + 1)
                return list_of(shape if inner.join == "all" else None)

    def _model(self, block: ModelStep, path: Path, scope: Scope) -> None:
        if block.model not in self._tiers:
            hint = nearest(block.model, self._tiers, "tiers; name one under `tiers`")
            self._add((*path, "model"), f"there is no tier `{block.model}`", hint)
        self._text(block.prompt, (*path, "prompt"), scope)
        if block.system is not None:
            self._text(block.system, (*path, "system"), scope)
        self.schema(block.output_schema, (*path, "output_schema"))

    def _items(self, block: Map, path: Path, scope: Scope) -> Shape:
        """Checks what a map goes over; answers with the shape of one item."""
        compiled = self._expression(block.map, path, scope)
        if compiled is None:
            return None
        if not compiled.references:
            self._constant_list(compiled, path)
            return None
        dotted = compiled.references[0].dotted
        if block.map.strip() != dotted:
            return None
        shape = field_of(scope.get(dotted.split(".", 1)[0]), dotted)
        if isinstance(shape, Missing):
            return None
        types = types_of(shape)
        if types and "array" not in types:
            self._add(path, f"`{dotted}` is not a list but {' or '.join(sorted(types))}")
        return item_of(shape)

    def _constant_list(self, compiled: Compiled, path: Path) -> None:
        try:
            value = compiled(_NO_SCOPE.__getitem__)
        except ExpressionError as error:
            self._add(path, str(error))
            return
        if not isinstance(value, list):
            self._add(path, f"a map goes over a list, this is {type(value).__name__}")

    def _value(self, value: Any, path: Path, scope: Scope) -> None:
        try:
            self._references(compile_value(value), path, scope)
        except ExpressionError as error:
            self._add((*path, *error.where), str(error))

    def _text(self, source: str, path: Path, scope: Scope) -> None:
        try:
            self._references(compile_text(source), path, scope)
        except ExpressionError as error:
            self._add(path, str(error))

    def _expression(self, source: str, path: Path, scope: Scope) -> Compiled | None:
        try:
            compiled = compile_expression(source)
        except ExpressionError as error:
            self._add(path, str(error))
            return None
        self._references(compiled, path, scope)
        return compiled

    def _references(self, compiled: Compiled, path: Path, scope: Scope) -> None:
        for reference in compiled.references:
            at = (*path, *reference.where)
            if reference.name not in scope:
                self._dangling(reference, at, scope)
                continue
            found = field_of(scope[reference.name], reference.dotted)
            if isinstance(found, Missing):
                self._add(at, found.message, found.hint)

    def _dangling(self, reference: Reference, path: Path, scope: Scope) -> None:
        name = reference.name
        if name in ("item", "index"):
            self._add(path, f"`{name}` stands for something only inside a map")
        elif name in self._all_ids:
            here = ", ".join(sorted(scope))
            text = f"the step `{name}` has not ended before this one in the same chain or in one around it"
            self._add(path, text, f"here are: {here}")
        else:
            self._add(path, f"nothing is called `{name}` here", nearest(name, scope))

    def _id(self, block_id: str, path: Path) -> None:
        at = (*path, "id")
        if block_id in RESERVED:
            self._add(at, f"`{block_id}` is a name of the language", "choose another id")
        elif block_id in self._seen:
            self._add(at, f"the id `{block_id}` is taken", "ids are unique within a definition")
        self._seen.setdefault(block_id, path)

    def _add(self, path: Path, message: str, hint: str = "") -> None:
        self.faults.append(fault(path, message, hint, self._lines))


def _ids(block: Block) -> Iterator[str]:
    yield block.id
    match block:
        case Chain():
            children = block.chain
        case RouteBlock():
            children = [case.do for case in block.route] + ([block.otherwise] if block.otherwise is not None else [])
        case Parallel():
            inner = block.parallel
            children = inner.sections if isinstance(inner, Sections) else [inner.do]
        case ModelStep() | ToolStep() | TaskStep():
            children = []
    for child in children:
        yield from _ids(child)

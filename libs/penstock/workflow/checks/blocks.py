"""Owns the checks of chains and parallel blocks, and of model, tool and task steps."""

from dataclasses import replace
from typing import Any, Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_worst_case
from penstock.workflow.definition import Chain, Map, Parallel, Sections
from penstock.workflow.expressions import ExpressionError
from penstock.workflow.faults import Path
from penstock.workflow.gates import Gate
from penstock.workflow.parts import ModelStep, TaskStep, ToolStep
from penstock.workflow.shapes import (
    INTEGER,
    TEXT,
    Shape,
    alternatives,
    closed,
    item_of,
    items_min,
    list_of,
    said,
    types_of,
    union,
)

FAILED: Final = closed(
    {"error": {"type": "object", "properties": {"code": TEXT, "message": TEXT}, "required": ["code", "message"]}}
)
"""What stands in the place of a branch that failed, where `join: best_effort` lets it."""
_NO_SCOPE: Final[dict[str, Any]] = {}


def check_chain(checker: Checker, block: Chain, place: Place) -> Shape:
    """Each block sees those before it, and what gates before it made sure of."""
    outer, shape = place, None
    for index, child in enumerate(block.chain):
        shape = checker.block(child, place.inside("chain", index))
        place = replace(place, scope={**place.scope, child.id: shape})
        if isinstance(child, Gate):
            place = place.after(child.check, holds=True)
    return shape if block.output is None else checker.value(block.output, (*outer.path, "output"), place.scope)


def check_parallel(checker: Checker, block: Parallel, place: Place) -> Shape:
    """Sections do not see each other; a map goes over a list."""
    inner = block.parallel
    match inner:
        case Sections():
            shapes = {
                child.id: checker.block(child, place.inside("parallel", "sections", index))
                for index, child in enumerate(inner.sections)
            }
            if inner.join == "all":
                return closed(shapes)
            return closed({name: union(shape, FAILED) for name, shape in shapes.items()})
        case Map():
            items = _items(checker, inner, (*place.path, "parallel", "map"), place)
            branch = place.inside("parallel", "do", item=item_of(items), index=INTEGER)
            shape = checker.block(inner.do, branch)
            return list_of(shape if inner.join == "all" else union(shape, FAILED), items_min(items))


def check_model(checker: Checker, block: ModelStep, place: Place) -> Shape:
    """The output is text where no schema is given."""
    checker.tier(block.model, (*place.path, "model"))
    checker.text(block.prompt, (*place.path, "prompt"), place.scope)
    if block.system is not None:
        checker.text(block.system, (*place.path, "system"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    check_worst_case(checker, block, place)
    return block.output_schema if block.output_schema is not None else TEXT


def check_tool(checker: Checker, block: ToolStep, place: Place) -> Shape:
    """Arguments are JSON with templates."""
    checker.value(block.arguments, (*place.path, "arguments"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    return block.output_schema


def check_task(checker: Checker, block: TaskStep, place: Place) -> Shape:
    """The input is JSON with templates."""
    checker.value(block.input, (*place.path, "input"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    return block.output_schema


def _items(checker: Checker, block: Map, path: Path, place: Place) -> Shape:
    """Checks what a map goes over; answers with the shape of the list."""
    compiled, shape = checker.typed(block.map, path, place.scope)
    if compiled is None:
        return None
    if not compiled.references:
        try:
            compiled(_NO_SCOPE.__getitem__)
        except ExpressionError as error:
            checker.add(path, str(error))
            return None
    types = types_of(shape)
    if types and types != {"array"}:
        source = block.map.strip()
        if "array" not in types:
            checker.add(path, f"`{source}` is not a list but {said(shape)}")
        else:
            text = f"`{source}` may be {said(union(*_others(shape)))}; a map goes over a list"
            checker.add(path, text, f"say what else it should go over: `{source} if {source} is sequence else []`")
    return shape


def _others(shape: Shape) -> list[Shape]:
    return [each for each in alternatives(shape) or () if each["type"] != "array"]

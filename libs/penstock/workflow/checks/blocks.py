"""Owns the checks of chains and parallel blocks, and of model, tool and task steps."""

from typing import Any, Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.definition import Chain, Map, Parallel, Sections
from penstock.workflow.expressions import Compiled, ExpressionError
from penstock.workflow.faults import Path
from penstock.workflow.parts import ModelStep, TaskStep, ToolStep
from penstock.workflow.shapes import TEXT, Missing, Shape, closed, field_of, item_of, list_of, types_of

_NO_SCOPE: Final[dict[str, Any]] = {}


def check_chain(checker: Checker, block: Chain, place: Place) -> Shape:
    """Each block sees those before it."""
    done: dict[str, Shape] = {}
    shape: Shape = None
    for index, child in enumerate(block.chain):
        shape = checker.block(child, place.inside("chain", index, **done))
        done[child.id] = shape
    if block.output is None:
        return shape
    checker.value(block.output, (*place.path, "output"), {**place.scope, **done})
    return closed(dict.fromkeys(block.output)) if isinstance(block.output, dict) else None


def check_parallel(checker: Checker, block: Parallel, place: Place) -> Shape:
    """Sections do not see each other; a map goes over a list."""
    inner = block.parallel
    match inner:
        case Sections():
            shapes = {
                child.id: checker.block(child, place.inside("parallel", "sections", index))
                for index, child in enumerate(inner.sections)
            }
            return closed(shapes) if inner.join == "all" else closed(dict.fromkeys(shapes))
        case Map():
            items = _items(checker, inner, (*place.path, "parallel", "map"), place)
            branch = place.inside("parallel", "do", item=items, index={"type": "integer"})
            shape = checker.block(inner.do, branch)
            return list_of(shape if inner.join == "all" else None)


def check_model(checker: Checker, block: ModelStep, place: Place) -> Shape:
    """The output is text where no schema is given."""
    checker.tier(block.model, (*place.path, "model"))
    checker.text(block.prompt, (*place.path, "prompt"), place.scope)
    if block.system is not None:
        checker.text(block.system, (*place.path, "system"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
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
    """Checks what a map goes over; answers with the shape of one item."""
    compiled = checker.expression(block.map, path, place.scope)
    if compiled is None:
        return None
    if not compiled.references:
        _constant_list(checker, compiled, path)
        return None
    dotted = compiled.references[0].dotted
    if block.map.strip() != dotted:
        return None
    shape = field_of(place.scope.get(dotted.split(".", 1)[0]), dotted)
    if isinstance(shape, Missing):
        return None
    types = types_of(shape)
    if types and "array" not in types:
        checker.add(path, f"`{dotted}` is not a list but {' or '.join(sorted(types))}")
    return item_of(shape)


def _constant_list(checker: Checker, compiled: Compiled, path: Path) -> None:
    try:
        value = compiled(_NO_SCOPE.__getitem__)
    except ExpressionError as error:
        checker.add(path, str(error))
        return
    if not isinstance(value, list):
        checker.add(path, f"a map goes over a list, this is {type(value).__name__}")

"""Owns what is known about values after a condition held, or did not."""

from collections.abc import Callable
from typing import Any, Final

from jinja2 import nodes

from penstock.workflow.flow.known import Known, Names, path_of
from penstock.workflow.shapes import NEVER, Shape, alternatives, type_of, union

Alternative = dict[str, Any]
Keep = Callable[[Alternative], Alternative | None]
"""What of an alternative is left; None where nothing."""

_NUMBERS: Final = frozenset({"integer", "number", "boolean"})
_TESTS: Final[dict[str, frozenset[str]]] = {
    "string": frozenset({"string"}),
    "mapping": frozenset({"object"}),
    "sequence": frozenset({"array"}),
    "number": _NUMBERS,
    "boolean": frozenset({"boolean"}),
    "none": frozenset({"null"}),
}
"""Tests by the types that pass them. An absent value passes only `sequence`."""


def narrowed(names: Names, node: nodes.Node, holds: bool) -> Names:
    """The names after the condition `node` was found to hold, or not to."""
    return _both(names, node)[not holds]


def _both(names: Names, node: nodes.Node) -> tuple[Names, Names]:
    """The names after a condition held, and after it did not: each part of it is looked at once."""
    match node:
        case nodes.Not():
            held, missed = _both(names, node.node)
            return missed, held
        case nodes.And():
            held, missed = _both(names, node.left)
            also, but_not = _both(held, node.right)
            return also, joined(missed, but_not)
        case nodes.Or():
            held, missed = _both(names, node.left)
            at_least, neither = _both(missed, node.right)
            return joined(held, at_least), neither
        case _:
            return _after(names, node, True), _after(names, node, False)


def _after(names: Names, node: nodes.Node, holds: bool) -> Names:
    match node:
        case nodes.Test():
            return _after_test(names, node, holds)
        case nodes.Compare(ops=[only]):
            return _after_comparison(names, node.expr, only.op, only.expr, holds)
        case nodes.Filter(name="default" | "d", node=nodes.Expr() as inner, args=[nodes.Const(value=other), *_]):
            # A value that counts where an absent one would not is there.
            return narrowed(names, inner, holds) if holds and not other else names
        case _:
            return _kept(names, node, lambda each: _truthy(each, holds))


def joined(first: Names, second: Names) -> Names:
    """What is known where one of two ways was taken."""
    if not reached(first) or not reached(second):
        return first if reached(first) else second
    return {
        name: known if second.get(name) is known else _either(known, second[name])
        for name, known in first.items()
        if name in second
    }


def _either(first: Known, second: Known) -> Known:
    absent = first if first.absent else second
    return Known(union(first.shape, second.shape), absent.absent, absent.hint)


def reached(names: Names) -> bool:
    """Whether a place is ever reached where this is known."""
    return all(known.shape != NEVER for known in names.values())


def _nowhere(names: Names) -> Names:
    """The names in a place that is never reached: whatever is said there cannot go wrong."""
    return dict.fromkeys(names, Known(NEVER))


def _after_test(names: Names, node: nodes.Test, holds: bool) -> Names:
    if node.name in ("defined", "undefined"):
        if holds == (node.name == "defined"):
            return _kept(names, node.node, lambda each: each)
        return _lacking(names, node.node)
    kinds = _TESTS.get(node.name)
    if kinds is None or node.args:
        return names
    if not holds:
        # Nothing is said about an absent value: `x is not none` holds for it.
        return _kept(names, node.node, lambda each: None if each["type"] in kinds else each, present=False)
    present = node.name != "sequence"
    return _kept(names, node.node, lambda each: each if each["type"] in kinds else None, present=present)


def _after_comparison(names: Names, left: nodes.Expr, operator: str, right: nodes.Expr, holds: bool) -> Names:
    if operator in ("ne", "notin"):
        return _after_comparison(names, left, {"ne": "eq", "notin": "in"}[operator], right, not holds)
    if operator == "in" and isinstance(left, nodes.Const) and isinstance(left.value, str) and path_of(right):
        return _with_field(names, right, left.value) if holds else names
    if isinstance(left, nodes.Filter) and left.name in ("length", "count") and isinstance(right, nodes.Const):
        return _after_length(names, left.node, operator, right.value, holds)
    values = _values(right) if operator == "in" else _values(nodes.List([right])) if operator == "eq" else None
    if values is None:
        values = _values(nodes.List([left])) if operator == "eq" else None
        left = right
    return names if values is None else _kept(names, left, lambda each: _equal(each, values, holds))


def _values(node: nodes.Expr) -> list[Any] | None:
    """The values of a list of constants."""
    if not isinstance(node, nodes.List | nodes.Tuple):
        return None
    values = [item.value for item in node.items if isinstance(item, nodes.Const)]
    return values if len(values) == len(node.items) else None


def _equal(each: Alternative, values: list[Any], holds: bool) -> Alternative | None:
    """What is left of an alternative that is one of some values, or none of them."""
    kinds = {type_of(value) for value in values}
    if kinds & _NUMBERS:
        kinds |= _NUMBERS
    listed = each.get("enum")
    if each["type"] not in kinds:
        return None if holds else each
    if each["type"] == "null":
        return each if holds else None
    if each["type"] != "string":
        return each
    if listed is None:
        return {**each, "enum": [value for value in values if isinstance(value, str)]} if holds else each
    left = [value for value in listed if (value in values) == holds]
    return {**each, "enum": left} if left else None


def _after_length(names: Names, node: nodes.Expr | None, operator: str, count: Any, holds: bool) -> Names:
    if node is None or not isinstance(count, int):
        return names
    least = {("gt", True): count + 1, ("gteq", True): count, ("eq", True): count}
    least |= {("lt", False): count, ("lteq", False): count + 1}
    if count == 0:
        least["eq", False] = 1
    items_min = least.get((operator, holds), 0)
    return _kept(names, node, lambda each: _at_least(each, items_min)) if items_min else names


def _at_least(each: Alternative, count: int) -> Alternative:
    if each["type"] != "array":
        return each
    return {**each, "minItems": max(count, each.get("minItems", 0))}


def _longer(each: Alternative, count: int) -> Alternative | None:
    """A text of at least so many characters."""
    longer = {**each, "minLength": max(count, each.get("minLength", 0))}
    if "enum" not in each:
        return longer
    left = [value for value in each["enum"] if len(value) >= count]
    return {**longer, "enum": left} if left else None


def _with_field(names: Names, node: nodes.Expr, field: str) -> Names:
    """After `'field' in node`: an object has it; text and lists may hold it as something else."""

    def keep(each: Alternative) -> Alternative | None:
        if each["type"] == "null":
            return None
        if each["type"] != "object" or field not in each.get("properties", {}):
            return each
        return {**each, "required": [*each.get("required", []), field]}

    return _kept(names, node, keep)


def _truthy(each: Alternative, holds: bool) -> Alternative | None:
    """What is left of an alternative that counts as true, or as false."""
    listed = each.get("enum")
    if isinstance(listed, list):
        left = [value for value in listed if bool(value) == holds]
        return {**each, "enum": left} if left else None
    match each["type"]:
        case "null":
            return None if holds else each
        case "boolean":
            return {**each, "enum": [holds]}
        case "array" if holds:
            return _at_least(each, 1)
        case "string" if holds:
            return {**each, "minLength": max(1, each.get("minLength", 0))}
        case "array":
            return None if each.get("minItems", 0) else each
        case "object" if not holds:
            return None if each.get("required") else each
        case _:
            return each


def _kept(names: Names, node: nodes.Node, keep: Keep, *, present: bool = True) -> Names:
    """The names where only what `keep` leaves of the value at `node` is possible; it is there, too, if `present`."""
    path = path_of(node)
    if path is None or path[0] not in names:
        return names
    name, *fields = path
    known = names[str(name)]
    shape = _rewritten(known.shape, lambda each: _inside(each, fields, keep, present))
    if shape == NEVER:
        return _nowhere(names)
    absent = known if fields or not present else Known(None)
    return {**names, str(name): Known(shape, absent.absent, absent.hint)}


def _lacking(names: Names, node: nodes.Node) -> Names:
    """The names where the value at `node` is not there."""
    path = path_of(node)
    if path is None or path[0] not in names:
        return names
    name, *fields = path
    known = names[str(name)]
    if not fields:
        return names if known.absent else _nowhere(names)
    *before, last = fields
    shape = _rewritten(known.shape, lambda each: _inside(each, before, lambda one: _without(one, last), True))
    return _nowhere(names) if shape == NEVER else {**names, str(name): Known(shape, known.absent, known.hint)}


def _without(each: Alternative, field: str | int) -> Alternative | None:
    """An alternative that lacks a field; None where it always has it."""
    if isinstance(field, int):
        needed = field + 1 if field >= 0 else -field
        return None if each["type"] == "array" and each.get("minItems", 0) >= needed else each
    if each["type"] != "object" or field not in each.get("properties", {}):
        return each
    return None if field in each.get("required", []) else _less(each, field)


def _rewritten(shape: Shape, keep: Keep) -> Shape:
    """What is left of a shape; NEVER where nothing is."""
    known = alternatives(shape)
    return shape if known is None else union(*(left for each in known if (left := keep(each)) is not None))


def _inside(each: Alternative, fields: list[str | int], keep: Keep, present: bool) -> Alternative | None:
    if not fields:
        return keep(each)
    field, *rest = fields
    if isinstance(field, int):
        needed = field + 1 if field >= 0 else -field
        match each["type"]:
            case _ if not present:
                return each
            case "array":
                return _at_least(each, needed)
            case "string":
                return _longer(each, needed)
            case _:
                return None
    properties = each.get("properties")
    if each["type"] != "object":
        return None if present else each
    if not isinstance(properties, dict) or properties.get(field, False) is False:
        return each
    inner = properties[field] if isinstance(properties[field], dict) else {}
    if "$defs" in each and "$defs" not in inner:
        inner = {**inner, "$defs": each["$defs"]}
    left = _rewritten(inner, lambda one: _inside(one, rest, keep, present))
    if left == NEVER:
        return None if present or field in each.get("required", []) else _less(each, field)
    required = list(dict.fromkeys([*each.get("required", []), field])) if present else each.get("required", [])
    return {**each, "properties": {**properties, field: left or {}}, "required": required}


def _less(each: Alternative, field: str) -> Alternative:
    """An object without a field that cannot be any more."""
    return {**each, "properties": {**each["properties"], field: False}}

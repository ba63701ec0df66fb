"""Owns what an expression's value can be, and how it can fail: types, fields that may be absent, guards."""

import itertools
from collections.abc import Callable
from typing import Any, Final

from jinja2 import nodes

from penstock.workflow.faults import nearest
from penstock.workflow.flow.conditions import narrowed
from penstock.workflow.flow.filters import FILTERS, FilterRule
from penstock.workflow.flow.known import SILENT, Known, Names, Trouble, spelled
from penstock.workflow.shapes import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    TEXT,
    Missing,
    Shape,
    alternatives,
    closed,
    constant,
    item_of,
    items_min,
    list_of,
    look_up,
    said,
    types_of,
    union,
)

_NUMERIC: Final = frozenset({"integer", "number", "boolean"})
_NUMBERS_ONLY: Final = frozenset(itertools.product(_NUMERIC, _NUMERIC))
_WHOLE: Final = ("integer", "boolean")
_PAIRS: Final = {
    nodes.Add: _NUMBERS_ONLY | {("string", "string"), ("array", "array")},
    nodes.Mul: _NUMBERS_ONLY
    | set(itertools.product(("string", "array"), _WHOLE))
    | set(itertools.product(_WHOLE, ("string", "array"))),
}
"""Which types an operator takes, left and right."""
_FAMILIES: Final = {"integer": "number", "boolean": "number"}
_SLICED: Final = frozenset({"string", "array", "null"})


class Flow:
    """Works out what expressions give, and collects what can go wrong in them."""

    def __init__(self) -> None:
        self.troubles: list[Trouble] = []

    def add(self, node: nodes.Node, message: str, hint: str = "") -> None:
        """Something that can go wrong at a node."""
        trouble = Trouble(message, hint, node.lineno or 1)
        if trouble not in self.troubles:
            self.troubles.append(trouble)

    def present(self, node: nodes.Node, names: Names) -> Shape:
        """What a value can be that is used: it must be there."""
        known = self.value(node, names)
        if known.absent and known.absent != SILENT:
            self.add(node, known.absent, known.hint)
        return None if known.absent == SILENT else known.shape

    def value(self, node: nodes.Node, names: Names) -> Known:
        """What a value can be, and whether it may be absent."""
        rule = _RULES.get(type(node))
        if rule is not None:
            return rule(self, node, names)
        for child in node.iter_child_nodes():
            self.value(child, names)
        return Known(None)

    def only(self, node: nodes.Node, types: frozenset[str], names: Names, needs: str) -> Shape:
        """What a value can be that must be of certain types; says so where it can be another."""
        shape = self.present(node, names)
        self.expect(node, shape, types, needs)
        return shape

    def expect(self, node: nodes.Node, shape: Shape, types: frozenset[str], needs: str) -> None:
        """Says so where a value can be of a type that is not among those that are needed."""
        wrong = types_of(shape) - types
        if not wrong:
            return
        if wrong == {"null"} and types_of(shape) != wrong:
            guard = f"guard it: `if {spelled(node)}`, or `| default(…, true)`"
            self.add(node, f"`{spelled(node)}` may be null; {needs}", guard)
        else:
            self.add(node, f"`{spelled(node)}` is {said(shape)}; {needs}")

    def _constant(self, node: nodes.Const, names: Names) -> Known:  # noqa: ARG002 - a rule as the others
        return Known(constant(node.value))

    def _text(self, node: nodes.Node, names: Names) -> Known:
        for child in node.iter_child_nodes():
            self.present(child, names)
        return Known(TEXT)

    def _name(self, node: nodes.Name, names: Names) -> Known:
        return names.get(node.name, Known(None))

    def _attribute(self, node: nodes.Getattr, names: Names) -> Known:
        return self._field(node, node.node, node.attr, names)

    def _item(self, node: nodes.Getitem, names: Names) -> Known:
        if isinstance(node.arg, nodes.Slice):
            for bound in node.arg.iter_child_nodes():
                self.present(bound, names)
            shape = self.only(node.node, _SLICED, names, "only lists and text can be sliced")
            return Known(list_of(item_of(shape)) if types_of(shape) == {"array"} else _if_text(shape))
        if isinstance(node.arg, nodes.Const) and type(node.arg.value) in (str, int):
            return self._field(node, node.node, node.arg.value, names)
        self.present(node.arg, names)
        self.present(node.node, names)
        return Known(None)

    def _field(self, node: nodes.Node, inside: nodes.Node, field: str | int, names: Names) -> Known:
        shape = self.present(inside, names)
        found = look_up(shape, spelled(inside), field)
        if isinstance(found, Missing):
            self.add(node, found.message, found.hint)
            return Known(None)
        return Known(found.shape, found.absent, found.hint)

    def _filter(self, node: nodes.Filter, names: Names) -> Known:
        if node.node is None:
            return Known(None)
        for argument in (*node.args, *(pair.value for pair in node.kwargs)):
            self.value(argument, names)
        if node.name in ("default", "d"):
            return self._default(node.node, node.args, names)
        shape = self.present(node.node, names)
        rule = FILTERS.get(node.name, FilterRule())
        if rule.takes is not None:
            self.expect(node.node, shape, rule.takes, f"`{node.name}` needs {rule.needs}")
        found = Known(None) if rule.gives is None else rule.gives(shape)
        return Known(found.shape, found.absent.format(spelled(node.node)), found.hint)

    def _default(self, node: nodes.Expr, arguments: list[nodes.Expr], names: Names) -> Known:
        known = self.value(node, names)
        other = self.present(arguments[0], names) if arguments else TEXT
        if len(arguments) > 1:
            # `default(x, true)` also stands in for what counts as false.
            return Known(union(_counting(known.shape, True), other))
        return Known(union(known.shape, other) if known.absent else known.shape)

    def _test(self, node: nodes.Test, names: Names) -> Known:
        self.value(node.node, names)
        for argument in node.args:
            self.present(argument, names)
        return Known(BOOLEAN)

    def _not(self, node: nodes.Not, names: Names) -> Known:
        self.present(node.node, names)
        return Known(BOOLEAN)

    def _and_or(self, node: nodes.And | nodes.Or, names: Names) -> Known:
        left = self.present(node.left, names)
        right = self.present(node.right, narrowed(names, node.left, isinstance(node, nodes.And)))
        return Known(union(_counting(left, isinstance(node, nodes.Or)), right))

    def _choice(self, node: nodes.CondExpr, names: Names) -> Known:
        self.present(node.test, names)
        first = self.value(node.expr1, narrowed(names, node.test, True))
        if node.expr2 is None:
            return Known(first.shape, SILENT)
        second = self.value(node.expr2, narrowed(names, node.test, False))
        absent = first if first.absent else second
        return Known(union(first.shape, second.shape), absent.absent, absent.hint)

    def _compare(self, node: nodes.Compare, names: Names) -> Known:
        left_node, left = node.expr, self.present(node.expr, names)
        for operand in node.ops:
            right = self.present(operand.expr, names)
            if operand.op in ("in", "notin"):
                self._contains(operand.expr, right)
            else:
                self._comparable(node, (left_node, left), (operand.expr, right), operand.op)
            left_node, left = operand.expr, right
        return Known(BOOLEAN)

    def _contains(self, node: nodes.Expr, shape: Shape) -> None:
        self.expect(node, shape, frozenset({"string", "array", "object"}), "`in` needs a list, an object or text")

    def _comparable(
        self, node: nodes.Node, left: tuple[nodes.Expr, Shape], right: tuple[nodes.Expr, Shape], operator: str
    ) -> None:
        """Says so where a comparison always comes out the same."""
        kinds = [{_FAMILIES.get(kind, kind) for kind in types_of(shape)} - {"null"} for _, shape in (left, right)]
        if not kinds[0] or not kinds[1]:
            return
        both_null = all("null" in types_of(shape) for _, shape in (left, right))
        if not kinds[0] & kinds[1] and not both_null:
            verdict = "never equal" if operator in ("eq", "ne") else "not comparable"
            text = f"`{spelled(left[0])}` is {said(left[1])} and `{spelled(right[0])}` is {said(right[1])}: {verdict}"
            self.add(node, text, "convert one of them, or compare what is alike")
            return
        if operator in ("eq", "ne"):
            self._among(left[0], right[1])
            self._among(right[0], left[1])

    def _among(self, node: nodes.Expr, other: Shape) -> None:
        """Says so where a text is compared with one that the other's `enum` does not have."""
        if not isinstance(node, nodes.Const) or not isinstance(node.value, str):
            return
        texts = [each for each in alternatives(other) or () if each["type"] == "string"]
        listed = [value for each in texts for value in each.get("enum", [])]
        if texts and all("enum" in each for each in texts) and node.value not in listed:
            text = f"{node.value!r} is not among the values it is compared with"
            self.add(node, text, nearest(node.value, listed))

    def _arithmetic(self, node: nodes.BinExpr, names: Names) -> Known:
        shapes = self.present(node.left, names), self.present(node.right, names)
        lefts, rights = (types_of(shape) for shape in shapes)
        pairs = _PAIRS.get(type(node), _NUMBERS_ONLY)
        for side, shape in zip((node.left, node.right), shapes, strict=True):
            operands = frozenset(kind for pair in pairs for kind in pair)
            needs = "numbers" if pairs is _NUMBERS_ONLY else "numbers, text or lists"
            self.expect(side, shape, operands, f"`{node.operator}` needs {needs}")
            if types_of(shape) - operands:
                return Known(None)
        if any((left, right) not in pairs for left in lefts for right in rights):
            text = f"`{spelled(node.left)}` is {said(shapes[0])} and `{spelled(node.right)}` is {said(shapes[1])}"
            self.add(node, f"{text}: `{node.operator}` cannot take both", "convert one of them")
            return Known(None)
        if lefts == rights == {"array"} and isinstance(node, nodes.Add):
            return Known(list_of(union(*map(item_of, shapes)), sum(map(items_min, shapes))))
        if not lefts or not rights or not lefts | rights <= _NUMERIC:
            return Known(TEXT if lefts == rights == {"string"} and isinstance(node, nodes.Add) else None)
        whole = lefts | rights == {"integer"} and isinstance(node, nodes.Add | nodes.Sub | nodes.Mul)
        return Known(INTEGER if whole else NUMBER)

    def _negative(self, node: nodes.Neg, names: Names) -> Known:
        shape = self.only(node.node, frozenset({"integer", "number"}), names, "`-` needs a number")
        return Known(INTEGER if types_of(shape) == {"integer"} else None)

    def _list(self, node: nodes.List | nodes.Tuple, names: Names) -> Known:
        items = [self.present(item, names) for item in node.items]
        return Known(list_of(union(*items) if items else None, len(items)))

    def _dict(self, node: nodes.Dict, names: Names) -> Known:
        fields: dict[str, Shape] = {}
        plain = True
        for pair in node.items:
            shape = self.present(pair.value, names)
            plain = plain and isinstance(pair.key, nodes.Const) and isinstance(pair.key.value, str)
            if isinstance(pair.key, nodes.Const):
                fields[str(pair.key.value)] = shape
        return Known(closed(fields) if plain else None)

    def _call(self, node: nodes.Call, names: Names) -> Known:
        for argument in (*node.args, *(pair.value for pair in node.kwargs)):
            shape = self.present(argument, names)
            if isinstance(node.node, nodes.Name) and node.node.name == "range":
                self.expect(argument, shape, _NUMERIC, "`range` needs a whole number")
        ranged = isinstance(node.node, nodes.Name) and node.node.name == "range"
        return Known(list_of(INTEGER) if ranged else None)


def _counting(shape: Shape, holds: bool) -> Shape:
    """What a value can be that counts as true, or as false."""
    return narrowed({"it": Known(shape)}, nodes.Name("it", "load"), holds)["it"].shape


def _if_text(shape: Shape) -> Shape:
    return TEXT if types_of(shape) == {"string"} else None


Rule = Callable[[Flow, Any, Names], Known]
_RULES: Final[dict[type[nodes.Node], Rule]] = {
    nodes.Const: Flow._constant,
    nodes.TemplateData: Flow._text,
    nodes.Concat: Flow._text,
    nodes.Name: Flow._name,
    nodes.Getattr: Flow._attribute,
    nodes.Getitem: Flow._item,
    nodes.Filter: Flow._filter,
    nodes.Test: Flow._test,
    nodes.Not: Flow._not,
    nodes.And: Flow._and_or,
    nodes.Or: Flow._and_or,
    nodes.CondExpr: Flow._choice,
    nodes.Compare: Flow._compare,
    nodes.Neg: Flow._negative,
    nodes.List: Flow._list,
    nodes.Tuple: Flow._list,
    nodes.Dict: Flow._dict,
    nodes.Call: Flow._call,
}
_RULES.update(
    dict.fromkeys((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow), Flow._arithmetic)
)

"""Owns what is worked out about whole strings of a definition: prompts, bare expressions, JSON with templates."""

from collections.abc import Mapping
from typing import Final

from jinja2 import nodes

from penstock.workflow.expressions import whole_expression
from penstock.workflow.flow import conditions
from penstock.workflow.flow.inference import Flow
from penstock.workflow.flow.known import SILENT, Known, Names, Trouble, expression, parsed
from penstock.workflow.shapes import NEVER, TEXT, Shape, constant, item_of, types_of

Scope = Mapping[str, Shape]
_ITERATED: Final = frozenset({"string", "array", "object", "null"})


class UnreadableError(ValueError):
    """A template whose tree is not understood: nothing is known about it."""


def of_expression(source: str, scope: Scope) -> tuple[Shape, list[Trouble]]:
    """What a bare expression gives. Raises UnreadableError."""
    node = expression(source)
    if node is None:
        raise UnreadableError(source)
    flow = Flow()
    with _Readable(source):
        known = flow.value(node, _names(scope, source))
    if known.absent == SILENT:
        flow.add(node, "there is no value where the condition does not hold", "add `else …`")
    elif known.absent:
        flow.add(node, known.absent, known.hint)
    return known.shape, flow.troubles


def of_text(source: str, scope: Scope) -> list[Trouble]:
    """How a template whose value is text can fail. Raises UnreadableError."""
    if not _has_tags(source):
        return []
    tree = parsed(source)
    if tree is None:
        raise UnreadableError(source)
    flow = Flow()
    with _Readable(source):
        _Template(flow).body(tree.body, _names(scope, source))
    return flow.troubles


def of_string(source: str, scope: Scope) -> tuple[Shape, list[Trouble]]:
    """What a string stands for where one `{{ expression }}` stands for its value. Raises UnreadableError."""
    whole = whole_expression(source)
    if whole is not None:
        return of_expression(whole, scope)
    if not _has_tags(source):
        return constant(source), []
    return TEXT, of_text(source, scope)


def after(source: str, scope: Scope, *, holds: bool) -> dict[str, Shape]:
    """The scope after a condition was found to hold, or not to."""
    node = expression(source)
    if node is None:
        return dict(scope)
    try:
        names = conditions.narrowed(_names(scope, source), node, holds)
    except RecursionError:
        return dict(scope)
    if not conditions.reached(names):
        return dict.fromkeys(scope, NEVER)
    return {**scope, **{name: known.shape for name, known in names.items()}}


def _names(scope: Scope, source: str) -> Names:
    """What is known of the names that a source can name: most of a large scope it does not."""
    return {name: Known(shape) for name, shape in scope.items() if name in source}


def _has_tags(source: str) -> bool:
    return "{{" in source or "{%" in source or "{#" in source


class _Readable:
    """Takes a tree that is nested too deep for one that is not understood."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RecursionError):
            raise UnreadableError(self._source) from None


class _Template:
    """Follows the statements of a template in their order."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def body(self, statements: list[nodes.Node], names: Names) -> Names:
        """The names after some statements."""
        for statement in statements:
            names = self._statement(statement, names)
        return names

    def _statement(self, node: nodes.Node, names: Names) -> Names:
        match node:
            case nodes.Output():
                for printed in node.nodes:
                    self._flow.present(printed, names)
                return names
            case nodes.If():
                return self._if(node, names)
            case nodes.For():
                self._for(node, names)
                return names
            case nodes.Assign():
                return self._bound(node.target, self._flow.value(node.node, names), names)
            case nodes.With():
                inner = names
                for target, value in zip(node.targets, node.values, strict=True):
                    inner = self._bound(target, self._flow.value(value, names), inner)
                self.body(node.body, inner)
                return names
            case nodes.FilterBlock():
                self.body(node.body, names)
                return names
            case _:
                raise UnreadableError(type(node).__name__)

    def _if(self, node: nodes.If, names: Names) -> Names:
        ends = []
        before = names
        for branch in (node, *node.elif_):
            self._flow.present(branch.test, before)
            ends.append(self.body(branch.body, conditions.narrowed(before, branch.test, True)))
            before = conditions.narrowed(before, branch.test, False)
        ends.append(self.body(node.else_, before))
        # What was set in one branch only is unknown after it; what was known before is known again.
        anew = _set(node)
        return {name: Known(None) if name in anew else names[name] for name in {*names, *anew}}

    def _for(self, node: nodes.For, names: Names) -> None:
        shape = self._flow.only(node.iter, _ITERATED, names, "a loop needs a list")
        kinds = types_of(shape)
        item = item_of(shape) if kinds == {"array"} else TEXT if kinds and kinds <= {"string", "object"} else None
        inner = {**self._bound(node.target, Known(item), names), "loop": Known(None)}
        if node.test is not None:
            self._flow.present(node.test, inner)
            inner = conditions.narrowed(inner, node.test, True)
        # What the body sets is unknown where it begins again.
        inner |= {name: Known(None) for name in _set(node)}
        self.body(node.body, inner)
        self.body(node.else_, names)

    def _bound(self, target: nodes.Node, value: Known, names: Names) -> Names:
        if isinstance(target, nodes.Name):
            return {**names, target.name: value}
        bound = {each.name: Known(None) for each in target.find_all(nodes.Name)}
        return {**names, **bound}


def _set(node: nodes.Node) -> frozenset[str]:
    """The names that statements inside set anew."""
    targets = [assigned.target for assigned in node.find_all(nodes.Assign)]
    plain = [target.name for target in targets if isinstance(target, nodes.Name)]
    return frozenset([*plain, *(each.name for target in targets for each in target.find_all(nodes.Name))])

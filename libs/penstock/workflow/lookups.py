"""Owns how expressions look names and paths up in a scope, and what they say of one that is not there."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from penstock.workflow import whole

Scope = Callable[[str], Any]
"""Answers what a name stands for; raises KeyError where nothing has that name."""

_FIELD: Final = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]")


class ExpressionError(ValueError):
    """A template or expression that does not compile or cannot be evaluated; the message names its source.

    `where` is its place inside the value that was compiled, `line` the line of the template, where they are known.
    """

    where: tuple[str | int, ...] = ()
    line: int = 1


def path_in(path: str, source: str) -> Callable[[Scope], Any]:
    """A lookup of `name.field[0]` without the template engine: it is most of what definitions hold."""
    name = head(path)
    fields = tuple(field or int(index) for field, index in _FIELD.findall(path[len(name) :]))

    def evaluate(scope: Scope) -> Any:
        try:
            value = scope(name)
        except KeyError:
            raise _no_such_name(name, source) from None
        for field in fields:
            if type(value) is dict and "$blob" in value:
                value = opened_in(scope, value, source)
            if (type(value) is dict and field in value) or (
                type(value) is list and type(field) is int and field < len(value)
            ):
                value = value[field]
            else:
                raise _no_such_field(path, field, value, source)
        return value

    return evaluate


def context_in(source: str, dotted: tuple[str, ...]) -> Callable[[Scope], dict[str, Any]]:
    """What a template is given: the names that it takes, whole where it looks into them."""
    names = names_of(dotted)
    looked_into = [tuple(path.split(".")) for path in dotted]

    def context(scope: Scope) -> dict[str, Any]:
        found = {name: _look_up(scope, name, source) for name in names}
        if whole.contents_of(scope) is not None:
            for name, *fields in looked_into:
                try:
                    found[name] = whole.seen(scope, found[name], fields)
                except whole.UnreadableError as error:
                    raise ExpressionError(f"`{shortened(source)}`: {error}") from None
        return found

    return context


def opened_in(scope: Scope, value: Any, source: str) -> Any:
    """The value where it is no reference itself, else what it stands for. Raises ExpressionError."""
    try:
        return whole.opened(scope, value)
    except whole.UnreadableError as error:
        raise ExpressionError(f"`{shortened(source)}`: {error}") from None


def whole_in(scope: Scope, value: Any) -> Any:
    """The value with what its references stand for, as whole.whole. Raises ExpressionError."""
    try:
        return whole.whole(scope, value)
    except whole.UnreadableError as error:
        raise ExpressionError(str(error)) from None


def _look_up(scope: Scope, name: str, source: str) -> Any:
    try:
        return scope(name)
    except KeyError:
        raise _no_such_name(name, source) from None


def _no_such_name(name: str, source: str) -> ExpressionError:
    within = "" if name == source else f"`{shortened(source)}`: "
    return ExpressionError(f"{within}nothing is called `{name}` here")


def _no_such_field(path: str, field: str | int, value: Any, source: str) -> ExpressionError:
    match value:
        case dict():
            known = ", ".join(sorted(value)[:12]) or "none"
            found = f"there is no field `{field}` (there are: {known})"
        case list():
            found = f"a list of {len(value)} has no `{field}`"
        case _:
            found = f"{'null' if value is None else type(value).__name__} has no field `{field}`"
    within = "" if path == source else f"`{shortened(source)}`: "
    return ExpressionError(f"{within}`{path}` is not defined: {found}")


def names_of(dotted: Iterable[str]) -> tuple[str, ...]:
    """The names that dotted paths begin with, each once, in a fixed order."""
    return tuple(sorted({name.split(".", 1)[0] for name in dotted}))


def head(path: str) -> str:
    """The name that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def shortened(source: str) -> str:
    """A source as a message quotes it, in one line."""
    text = " ".join(source.split())
    return text if len(text) <= 120 else text[:117] + "…"

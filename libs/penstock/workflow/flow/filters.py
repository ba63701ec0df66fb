"""Owns what filters take and give, as far as it can be known; a filter that is not here takes and gives anything."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from penstock.workflow.flow.known import Known
from penstock.workflow.shapes import BOOLEAN, INTEGER, TEXT, Shape, filled, item_of, items_min, list_of, types_of

_STRING: Final = frozenset({"string"})
_OBJECT: Final = frozenset({"object"})
_SIZED: Final = frozenset({"string", "array", "object"})
_ITERABLE: Final = _SIZED | {"null"}
_NUMBER: Final = frozenset({"integer", "number"})
_SCALAR: Final = frozenset({"string", "integer", "number", "boolean", "null"})


@dataclass(frozen=True, slots=True)
class FilterRule:
    """What a filter takes (None: anything), that in words, and what it makes of it (None: nothing is known)."""

    takes: frozenset[str] | None = None
    needs: str = ""
    gives: Callable[[Shape], Known] | None = None


def _always(shape: Shape) -> Callable[[Shape], Known]:
    return lambda _: Known(shape)


def _same_items(shape: Shape) -> Known:
    """A list of the same items, perhaps fewer."""
    return Known(list_of(item_of(shape)) if types_of(shape) == {"array"} else list_of(None))


def _all_items(shape: Shape) -> Known:
    """A list of the same items, all of them."""
    return Known(list_of(item_of(shape), items_min(shape)) if types_of(shape) == {"array"} else list_of(None))


def _one_item(shape: Shape) -> Known:
    """One of the items; absent where there are none."""
    inside = item_of(shape) if types_of(shape) == {"array"} else TEXT if types_of(shape) == {"string"} else None
    if filled(shape):
        return Known(inside)
    return Known(inside, "`{}` may be empty", "add `minItems` to its schema, or give a `| default(…)` after it")


def _reversed(shape: Shape) -> Known:
    return Known(TEXT) if types_of(shape) == {"string"} else _all_items(shape)


_LISTING: Final = FilterRule(_ITERABLE, "a list", _same_items)
_WHOLE: Final = FilterRule(_ITERABLE, "a list", _all_items)
_PICKING: Final = FilterRule(_SIZED, "a list or text", _one_item)
_NUMBERS: Final = FilterRule(_NUMBER, "a number")
_TEXTS: Final = FilterRule(gives=_always(TEXT))

FILTERS: Final[dict[str, FilterRule]] = {
    **dict.fromkeys(("upper", "lower", "title", "capitalize", "trim", "replace", "string", "tojson"), _TEXTS),
    **dict.fromkeys(("urlencode", "escape", "e", "safe", "indent", "pprint"), _TEXTS),
    **dict.fromkeys(("select", "reject", "selectattr", "rejectattr", "unique"), _LISTING),
    **dict.fromkeys(("sort", "list"), _WHOLE),
    **dict.fromkeys(("first", "last", "min", "max"), _PICKING),
    **dict.fromkeys(("length", "count"), FilterRule(_SIZED, "a list, an object or text", _always(INTEGER))),
    **dict.fromkeys(("abs", "round"), _NUMBERS),
    **dict.fromkeys(("int", "float"), FilterRule(_SCALAR, "a number or text")),
    **dict.fromkeys(("items", "dictsort"), FilterRule(_OBJECT, "an object", _always(list_of(None)))),
    **dict.fromkeys(("split", "lines"), FilterRule(_STRING, "text", _always(list_of(TEXT)))),
    "bool": FilterRule(gives=_always(BOOLEAN)),
    "join": FilterRule(_ITERABLE, "a list", _always(TEXT)),
    "map": FilterRule(_ITERABLE, "a list", _always(list_of(None))),
    "reverse": FilterRule(_ITERABLE, "a list or text", _reversed),
    "sum": FilterRule(_ITERABLE, "a list"),
}

"""Owns how large a text can become: of a value from its schema, of a prompt from what it refers to."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from penstock.workflow.shapes import Missing, Shape, look_up

REQUEST_BYTES_MAX: Final = 524_288
"""What one request can carry; the orchestrator refuses more."""
CHARACTER_BYTES_MAX: Final = 10
"""A character inside a list or an object: four bytes of UTF-8, or ten where it is written as its number."""
NUMBER_BYTES_MAX: Final = 350
"""Templates write numbers out: 1e300 has 301 digits."""
PART_BYTES: Final = 8
"""What JSON adds to a field or an item: quotes, a colon, a comma, spaces."""
_DEPTH_MAX: Final = 16
_PLAIN: Final = re.compile(r"\{\{-?\s*([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*-?\}\}")
_MARKS: Final = ("{{", "{%", "{#")


def text_bytes(source: str, scope: Mapping[str, Shape], known: Mapping[str, int]) -> int | None:
    """How many bytes a template's text has at most; None where only the engine's limit says so.

    `known` are bounds by name that no schema tells, as of a text that a model wrote.
    """
    total = 0
    pieces = _PLAIN.split(source)
    if any(mark in literal for literal in pieces[::2] for mark in _MARKS):
        return None  # filters, loops and conditions may do anything
    for index, piece in enumerate(pieces):
        size = len(piece.encode()) if index % 2 == 0 else _reference_bytes(piece, scope, known)
        if size is None:
            return None
        total += size
    return total


def _reference_bytes(dotted: str, scope: Mapping[str, Shape], known: Mapping[str, int]) -> int | None:
    if dotted in known:
        return known[dotted]
    return value_bytes(shape_at(scope, dotted))


def shape_at(scope: Mapping[str, Shape], dotted: str) -> Shape:
    """The shape of `input.text` in a scope; None where nothing is known of it."""
    at, *fields = dotted.split(".")
    shape = scope.get(at)
    for field in fields:
        found = look_up(shape, at, field)
        if isinstance(found, Missing):
            return None
        shape, at = found.shape, f"{at}.{field}"
    return shape


def value_bytes(shape: Shape, depth: int = 0) -> int | None:
    """How many bytes a value of a shape has at most as JSON; None where nothing bounds it."""
    if shape is None or depth > _DEPTH_MAX:
        return None
    if "$ref" in shape:
        name = str(shape["$ref"]).removeprefix("#/$defs/")
        return value_bytes(_inside(shape.get("$defs", {}), name, shape), depth + 1)
    for word in ("anyOf", "oneOf"):
        if shape.get(word):
            return _largest(value_bytes(_inside({"": branch}, "", shape), depth + 1) for branch in shape[word])
    if "const" in shape:
        return _written_bytes(shape["const"])
    if shape.get("enum"):
        return max(_written_bytes(value) for value in shape["enum"])
    kinds = shape.get("type")
    return _largest(_kind_bytes(kind, shape, depth) for kind in ([kinds] if isinstance(kinds, str) else kinds or []))


def _kind_bytes(kind: str, shape: dict[str, Any], depth: int) -> int | None:
    match kind:
        case "null" | "boolean":
            return PART_BYTES
        case "integer" | "number":
            return NUMBER_BYTES_MAX
        case "string":
            length = shape.get("maxLength")
            return length * CHARACTER_BYTES_MAX + PART_BYTES if isinstance(length, int) else None
        case "array":
            item, count = value_bytes(_inside(shape, "items", shape), depth + 1), shape.get("maxItems")
            return None if item is None or not isinstance(count, int) else count * (item + PART_BYTES) + PART_BYTES
        case "object" if shape.get("additionalProperties") is False and "patternProperties" not in shape:
            total = PART_BYTES
            fields = shape.get("properties", {})
            for name in fields:
                size = value_bytes(_inside(fields, name, shape), depth + 1)
                if size is None:
                    return None
                total += len(name.encode()) + PART_BYTES + size
            return total
        case _:
            return None


def _written_bytes(value: Any) -> int:
    text = orjson.dumps(value).decode()
    plain = text.isascii() and text.isprintable() and isinstance(value, str)
    return len(text) + PART_BYTES if plain else len(text) * CHARACTER_BYTES_MAX + NUMBER_BYTES_MAX


def _largest(sizes: Iterable[int | None]) -> int | None:
    """The largest; None where one has no bound, or there is none."""
    known = list(sizes)
    return None if None in known else max((size for size in known if size is not None), default=None)


def _inside(holder: dict[str, Any], name: str, outer: dict[str, Any]) -> Shape:
    """A part of a schema, with the definitions that its references mean."""
    inner = holder.get(name)
    if not isinstance(inner, dict):
        return None
    return {**inner, "$defs": outer["$defs"]} if "$defs" in outer and "$defs" not in inner else inner

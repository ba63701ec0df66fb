"""Owns what a definition knows about values before it runs: the fields that a JSON Schema promises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.workflow.faults import nearest

Shape = dict[str, Any] | None
"""A JSON Schema, or None where nothing is known."""

TEXT: Shape = {"type": "string"}
_JSON_TYPES = {"string", "number", "integer", "boolean", "null"}
_COMBINED = frozenset({"anyOf", "oneOf", "allOf", "if", "not", "$ref", "$dynamicRef", "patternProperties"})


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that cannot be there, with a hint at what can."""

    message: str
    hint: str


def field_of(shape: Shape, dotted: str) -> Shape | Missing:
    """The shape of `input.text` where `shape` is that of `input`; Missing where that field cannot be."""
    name, *fields = dotted.split(".")
    at = name
    for field in fields:
        shape = _resolved(shape)
        if shape is None:
            return None
        missing = _missing(shape, at, field)
        if missing is not None:
            return missing
        shape = _properties(shape).get(field)
        at = f"{at}.{field}"
    return _resolved(shape)


def item_of(shape: Shape) -> Shape:
    """The shape of a list's items."""
    shape = _resolved(shape)
    items = shape.get("items") if shape is not None else None
    return items if isinstance(items, dict) else None


def types_of(shape: Shape) -> frozenset[str]:
    """The JSON types a value can have; empty where any."""
    shape = _resolved(shape)
    if shape is None or _COMBINED & shape.keys():
        return frozenset()
    declared = shape.get("type", [])
    return frozenset([declared] if isinstance(declared, str) else declared)


def closed(properties: dict[str, Shape]) -> Shape:
    """An object with these fields and no other."""
    known = {name: {} if shape is None else shape for name, shape in properties.items()}
    return {"type": "object", "properties": known, "additionalProperties": False}


def list_of(shape: Shape) -> Shape:
    """A list whose items have a shape."""
    return {"type": "array", "items": {} if shape is None else shape}


def _missing(shape: dict[str, Any], at: str, field: str) -> Missing | None:
    types = types_of(shape)
    if types and types <= _JSON_TYPES:
        kinds = " or ".join(sorted(types))
        return Missing(
            f"`{at}` is a {kinds} and has no field `{field}`", "give its step an `output_schema`, or drop it"
        )
    if types == {"array"}:
        return Missing(f"`{at}` is a list and has no field `{field}`", "take one item first: `[0]`, or use a map")
    properties = _properties(shape)
    if field in properties or _COMBINED & shape.keys():
        return None
    # A schema that lists fields is taken at its word, unless it says that there are others.
    others = shape.get("additionalProperties")
    if others is False or (properties and others is None):
        return Missing(f"`{at}` has no field `{field}` in its schema", nearest(field, properties, "fields"))
    return None


def _properties(shape: dict[str, Any]) -> dict[str, Any]:
    properties = shape.get("properties", {})
    return properties if isinstance(properties, dict) else {}


def _resolved(shape: Shape) -> Shape:
    return shape if isinstance(shape, dict) and "$ref" not in shape else None


def with_definitions(shape: Shape) -> Shape:
    """A schema whose local references (`#/$defs/…`) are replaced by what they stand for, one level deep each."""
    if shape is None or "$defs" not in shape:
        return shape
    inlined: dict[str, Any] = _inlined(shape, shape["$defs"], ())
    return inlined


def _inlined(part: Any, definitions: Any, open_names: Sequence[str]) -> Any:
    if isinstance(part, list):
        return [_inlined(item, definitions, open_names) for item in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        name = reference.removeprefix("#/$defs/")
        if name in open_names or not isinstance(definitions, dict) or name not in definitions:
            return {}
        return _inlined(definitions[name], definitions, [*open_names, name])
    return {key: _inlined(item, definitions, open_names) for key, item in part.items() if key != "$defs"}

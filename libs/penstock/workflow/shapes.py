"""Owns what a definition knows about values before it runs: the fields that a JSON Schema promises."""

from dataclasses import dataclass
from typing import Any, Final

from penstock.workflow.faults import nearest

Shape = dict[str, Any] | None
"""A JSON Schema, or None where nothing is known."""

REFERENCES_MAX: Final = 16
"""How many references are followed from one to the next."""

TEXT: Shape = {"type": "string"}
_JSON_TYPES = {"string", "number", "integer", "boolean", "null"}
_COMBINED = frozenset({"anyOf", "oneOf", "allOf", "if", "not", "$dynamicRef", "patternProperties"})


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
        shape = _inside(shape, _properties(shape).get(field))
        at = f"{at}.{field}"
    return _resolved(shape)


def item_of(shape: Shape) -> Shape:
    """The shape of a list's items."""
    shape = _resolved(shape)
    return _inside(shape, shape.get("items")) if shape is not None else None


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
    """The schema that a local reference (`#/$defs/name`) stands for; None for a reference that leads elsewhere."""
    for _ in range(REFERENCES_MAX):
        if shape is None or "$ref" not in shape:
            return shape
        reference, definitions = shape["$ref"], shape.get("$defs")
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
        if not isinstance(definitions, dict) or name not in definitions or name == reference:
            return None
        shape = _inside(shape, definitions[name])
    return None


def _inside(outer: dict[str, Any], inner: Any) -> Shape:
    """A part of a schema, with the definitions that its references mean."""
    if not isinstance(inner, dict):
        return None
    return {**inner, "$defs": outer["$defs"]} if "$defs" in outer and "$defs" not in inner else inner

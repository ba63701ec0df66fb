"""Owns what a definition knows about values before it runs: the types and fields that a JSON Schema promises."""

import re
from dataclasses import dataclass
from typing import Any, Final

from penstock.workflow.faults import nearest

Shape = dict[str, Any] | None
"""A JSON Schema, or None where nothing is known."""

REFERENCES_MAX: Final = 16
"""How many references are followed from one to the next."""
ALTERNATIVES_MAX: Final = 24
"""A value that can be more kinds of things than this counts as unknown."""

TEXT: Final[Shape] = {"type": "string"}
NUMBER: Final[Shape] = {"type": "number"}
INTEGER: Final[Shape] = {"type": "integer"}
NEVER: Final[Shape] = {"anyOf": []}
"""Of a value in a place that is never reached."""
BOOLEAN: Final[Shape] = {"type": "boolean"}
NULL: Final[Shape] = {"type": "null"}
_CONTAINERS: Final = frozenset({"object", "array"})
_TYPES: Final = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})
_WORDS: Final[dict[str, tuple[type, ...]]] = {
    "type": (str, list),
    "properties": (dict,),
    "required": (list,),
    "items": (dict, bool),
    "enum": (list,),
    "anyOf": (list,),
    "oneOf": (list,),
    "$defs": (dict,),
    "minItems": (int, float),
    "minLength": (int, float),
}
"""What may stand after the words of a schema that are looked at here."""
_OPAQUE: Final = frozenset({"allOf", "if", "not", "$dynamicRef", "patternProperties", "dependentSchemas"})
_BRANCHES: Final = ("anyOf", "oneOf")
_REMARKS: Final = frozenset(
    {"$defs", "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
    | {"discriminator", "readOnly", "writeOnly"}
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that cannot be there, with a hint at what can."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Found:
    """A field that can be there. `absent` says why it may not be, empty where it always is; `hint` what to do then."""

    shape: Shape
    absent: str = ""
    hint: str = ""


def alternatives(shape: Shape, depth: int = 0) -> tuple[dict[str, Any], ...] | None:
    """The schemas of one JSON type each that a value can have; None where it can be anything.

    `depth` counts the unions around it: what refers to itself has no end.
    """
    shape = _resolved(shape)
    if shape is None or _OPAQUE & shape.keys():
        return None
    branches: list[str] = [word for word in _BRANCHES if word in shape]
    if branches:
        return _of_branches(shape, branches, depth) if depth < REFERENCES_MAX else None
    values = [shape["const"]] if "const" in shape else shape.get("enum")
    if isinstance(values, list):
        return _of_values(shape, values)
    declared = shape.get("type")
    if declared is None:
        # A schema that lists fields or items is taken at its word.
        declared = "object" if {"properties", "required"} & shape.keys() else "array" if "items" in shape else None
        return None if declared is None else ({**shape, "type": declared},)
    if not isinstance(declared, str | list):
        return None  # no schema at all: that is a fault of its own, where it stands
    kinds = [declared] if isinstance(declared, str) else declared
    return tuple(shape if kind == declared else {**shape, "type": kind} for kind in kinds)


def types_of(shape: Shape) -> frozenset[str]:
    """The JSON types a value can have; empty where any."""
    known = alternatives(shape)
    return frozenset() if known is None else frozenset(each["type"] for each in known)


def union(*shapes: Shape) -> Shape:
    """What a value can be that is one of several."""
    found: list[dict[str, Any]] = []
    for shape in shapes:
        known = alternatives(shape)
        if known is None:
            return None
        found.extend(each for each in known if each not in found)
    if len(found) > ALTERNATIVES_MAX:
        return None
    return found[0] if len(found) == 1 else {"anyOf": found}


def nullable(shape: Shape) -> Shape:
    """What a value can be that may be null."""
    return union(shape, NULL)


def without_null(shape: Shape) -> Shape:
    """What a value can be that is not null."""
    known = alternatives(shape)
    return None if known is None else union(*(each for each in known if each["type"] != "null"))


def look_up(shape: Shape, at: str, field: str | int) -> Found | Missing:
    """The shape of a field (or of an item, by number) of a value that is called `at`; Missing where it cannot be."""
    known = alternatives(shape)
    if not known:
        opaque = _resolved(shape) or {}
        return Found(_inside(opaque, _properties(opaque).get(str(field))))
    looked = [(each, _look_up(each, at, field)) for each in known]
    found = [result for _, result in looked if isinstance(result, Found)]
    if not found:
        # What is wrong with null is the least of it, where it can be something else.
        _, missing = min(looked, key=lambda pair: pair[0]["type"] == "null")
        assert isinstance(missing, Missing)
        return missing
    inside = union(*(each.shape for each in found))
    for each, result in looked:
        if isinstance(result, Missing):
            text = f"`{at}` may be {_article(each['type'])}, and then has no {_spelled(field)}"
            guard = f"`if {at}`" if each["type"] == "null" else "`is defined`"
            return Found(inside, text, f"guard it: {guard}, `| default(…)`")
    absent = next((each for each in found if each.absent), Found(None))
    return Found(inside, absent.absent, absent.hint)


def item_of(shape: Shape) -> Shape:
    """The shape of a list's items; of any list's, where it can be several."""
    lists = [each for each in alternatives(shape) or () if each["type"] == "array"]
    if not lists or any("prefixItems" in each for each in lists):
        return None
    return union(*(_inside(each, each.get("items")) for each in lists))


def items_min(shape: Shape) -> int:
    """How many items a list has at least."""
    return min((_count(each.get("minItems")) for each in alternatives(shape) or ()), default=0)


def filled(shape: Shape) -> bool:
    """Whether a value is never empty; True where that is not known."""
    return all(_filled(each) for each in alternatives(shape) or ())


def closed(properties: dict[str, Shape]) -> dict[str, Any]:
    """An object with these fields, all of them, and no other."""
    known = {name: {} if shape is None else shape for name, shape in properties.items()}
    return {"type": "object", "properties": known, "required": list(known), "additionalProperties": False}


def list_of(shape: Shape, count_min: int = 0) -> dict[str, Any]:
    """A list whose items have a shape, and how many there are at least."""
    least = {"minItems": count_min} if count_min else {}
    return {"type": "array", "items": {} if shape is None else shape, **least}


def constant(value: Any) -> Shape:
    """The shape of one known value."""
    match value:
        case dict():
            return closed({str(name): constant(item) for name, item in value.items()})
        case list() | tuple():
            return list_of(union(*(constant(item) for item in value)) if value else None, len(value))
        case _:
            return {"type": type_of(value), "enum": [value]}


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
        case _:
            return "array"


def said(shape: Shape) -> str:
    """The types of a value as people read them: `null or string`."""
    return " or ".join(sorted(types_of(shape))) or "anything"


def _filled(shape: dict[str, Any]) -> bool:
    match shape["type"]:
        case "array":
            return _count(shape.get("minItems")) > 0
        case "string":
            return _count(shape.get("minLength")) > 0 or all(shape.get("enum", [""]))
        case kind:
            return kind != "object" or bool(_required(shape))


def _of_branches(shape: dict[str, Any], words: list[str], depth: int) -> tuple[dict[str, Any], ...] | None:
    """The alternatives of `anyOf` or `oneOf` where nothing but a type stands beside it."""
    word = words[0]
    if len(words) > 1 or shape.keys() - _REMARKS - {word, "type"} or not isinstance(shape[word], list):
        return None
    found: list[dict[str, Any]] = []
    for branch in shape[word]:
        inside = _inside(shape, branch)
        if inside is not None and "type" in shape and "type" not in inside:
            inside = {**inside, "type": shape["type"]}
        known = alternatives(inside, depth + 1) if len(found) <= ALTERNATIVES_MAX else None
        if known is None:
            return None
        found.extend(known)
    return tuple(found)


def _of_values(shape: dict[str, Any], values: list[Any]) -> tuple[dict[str, Any], ...]:
    declared = shape.get("type")
    allowed = {declared} if isinstance(declared, str) else set(declared or ())
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(type_of(value), []).append(value)
    if "number" in allowed:
        allowed.add("integer")
    return tuple(
        {"type": kind} if kind in _CONTAINERS else {"type": kind, "enum": listed}
        for kind, listed in by_type.items()
        if not allowed or kind in allowed
    )


def _look_up(shape: dict[str, Any], at: str, field: str | int) -> Found | Missing:
    """The field of a value of one type."""
    match shape["type"]:
        case "object" if isinstance(field, str):
            return _of_object(shape, at, field)
        case "array" if isinstance(field, int):
            return _of_list(shape, at, field)
        case "array":
            return Missing(f"`{at}` is a list and has no field `{field}`", "take one item first: `[0]`, or use a map")
        case "string" if isinstance(field, int):
            return Found(TEXT, f"`{at}` is text, whose characters cannot be taken so", f"take a slice: `{at}[:1]`")
        case "null":
            return Missing(f"`{at}` is null and has no {_spelled(field)}", "")
        case kind:
            step = re.split(r"[.\[]", at, maxsplit=1)[0] not in ("input", "run", "item", "task")
            hint = "give its step an `output_schema`, or drop it" if isinstance(field, str) and step else ""
            return Missing(f"`{at}` is {_article(kind)} and has no {_spelled(field)}", hint)


def _of_object(shape: dict[str, Any], at: str, field: str) -> Found | Missing:
    properties = _properties(shape)
    if field in properties:
        if properties[field] is False:
            return Missing(f"`{at}` never has the field `{field}`", "")
        absent = "" if field in _required(shape) else f"`{at}.{field}` may be absent: its schema does not require it"
        hint = "add it to `required`, or guard it: `is defined`, `| default(…)`" if absent else ""
        return Found(_inside(shape, properties[field]), absent, hint)
    others = shape.get("additionalProperties")
    # A schema that lists fields is taken at its word, unless it says that there are others.
    if others is False or (properties and others is None):
        return Missing(f"`{at}` has no field `{field}` in its schema", nearest(field, properties, "fields"))
    return Found(_inside(shape, others))


def _of_list(shape: dict[str, Any], at: str, index: int) -> Found:
    needed = index + 1 if index >= 0 else -index
    inside = None if "prefixItems" in shape else _inside(shape, shape.get("items"))
    if _count(shape.get("minItems")) >= needed:
        return Found(inside)
    text = f"`{at}[{index}]` may be absent: the list may have fewer items"
    return Found(inside, text, "add `minItems` to its schema, or guard it: `is defined`, `| default(…)`")


def _article(kind: str) -> str:
    match kind:
        case "null":
            return "null"
        case "array":
            return "a list"
        case "object" | "integer":
            return f"an {kind}"
        case _:
            return f"a {kind}"


def _spelled(field: str | int) -> str:
    return f"field `{field}`" if isinstance(field, str) else f"item {field}"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _required(shape: dict[str, Any]) -> list[str]:
    required = shape.get("required", [])
    return required if isinstance(required, list) else []


def _properties(shape: dict[str, Any]) -> dict[str, Any]:
    properties = shape.get("properties", {})
    return properties if isinstance(properties, dict) else {}


def _well_formed(shape: dict[str, Any]) -> bool:
    """Whether the words of a schema that are looked at here say what they may; one that is none is told elsewhere."""
    for word, kinds in _WORDS.items():
        if word in shape and not isinstance(shape[word], kinds):
            return False
    types = shape.get("type", [])
    listed = [types] if isinstance(types, str) else types
    return all(isinstance(name, str) for name in shape.get("required", [])) and all(
        isinstance(name, str) and name in _TYPES for name in listed
    )


def _resolved(shape: Shape) -> Shape:
    """The schema that a local reference (`#/$defs/name`) stands for; None for a reference that leads elsewhere."""
    for _ in range(REFERENCES_MAX):
        if shape is None or not _well_formed(shape):
            return None
        if "$ref" not in shape:
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

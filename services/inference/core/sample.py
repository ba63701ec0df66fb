"""Owns text and JSON that stand in for a model's: deterministic from a seed, valid for a schema, and marked as such."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from itertools import accumulate
from struct import Struct
from typing import Any, Final

MARK: Final = "[simulated] "
WORDS: Final = (  # noqa: SIM905 - thirty lines of one word each read worse
    "water turbine valve meter pipe level gate flow pressure season lake stone river slope intake tunnel "
    "spring channel basin weir head lift drop stream storage demand supply record reading gauge"
).split()
DEPTH_MAX: Final = 12
PROPERTIES_MAX: Final = 256


class CannotSampleError(ValueError):
    """The schema uses something this small generator does not know."""


class Dice:
    """Numbers from a seed, the same on every machine: SHA-256 in counter mode."""

    __slots__ = ("_counter", "_numbers", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed: Final = seed
        self._counter = 0
        self._numbers: list[int] = []

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        if not self._numbers:
            block = sha256(self._seed + self._counter.to_bytes(8, "big")).digest()
            self._numbers.extend(_NUMBERS.unpack(block))
            self._counter += 1
        return self._numbers.pop() % limit


_NUMBERS: Final = Struct(">4Q")
STOCK_WORDS: Final = 8192


@cache
def _stock() -> tuple[str, Sequence[int]]:
    """A long text, and where its words begin: what is said is cut out of it, at once."""
    dice = Dice(b"stock")
    words = [WORDS[dice.below(len(WORDS))] for _ in range(STOCK_WORDS)]
    return " ".join(words), tuple(accumulate((len(word) + 1 for word in words[:-1]), initial=0))


def prose(dice: Dice, characters: int) -> str:
    """Marked text of about that length, at least the mark and a word."""
    text, starts = _stock()
    said, left = MARK, characters - len(MARK)
    while True:
        start = starts[dice.below(len(starts))]
        end = text.find(" ", start + max(0, left))
        if end >= 0:
            return said + text[start:end]
        said += text[start:] + " "
        left = characters - len(said)


def value(schema: Any, dice: Dice) -> Any:
    """A value for a schema. Raises CannotSampleError; whoever calls still checks it against the schema."""
    return _value(schema, schema, dice, 0)


def _value(schema: Any, root: Any, dice: Dice, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise CannotSampleError(f"deeper than {DEPTH_MAX} levels")
    if schema is True or schema == {}:
        return prose(dice, 24)
    if not isinstance(schema, dict):
        raise CannotSampleError("a schema that allows nothing")
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][dice.below(len(schema["enum"]))]
    if "$ref" in schema:
        return _value(_referenced(schema["$ref"], root), root, dice, depth + 1)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _value(_merged(schema, word, schema[word][0]), root, dice, depth + 1)
    if "allOf" in schema:
        merged = {name: part for name, part in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            merged = _merged(merged, "", part)
        return _value(merged, root, dice, depth + 1)
    return _of_type(schema, root, dice, depth)


def _of_type(schema: dict[str, Any], root: Any, dice: Dice, depth: int) -> Any:
    kinds = schema.get("type")
    match kinds[0] if isinstance(kinds, list) else kinds:
        case "object":
            return _object(schema, root, dice, depth)
        case None if "properties" in schema:
            return _object(schema, root, dice, depth)
        case "array":
            return _array(schema, root, dice, depth)
        case "integer":
            return _integer(schema, dice)
        case "number":
            return _number(schema, dice)
        case "boolean":
            return bool(dice.below(2))
        case "null":
            return None
        case "string" | None:
            return _string(schema, dice)
        case kind:
            raise CannotSampleError(f"type {kind!r}")


def _object(schema: dict[str, Any], root: Any, dice: Dice, depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    names = list(dict.fromkeys([*properties, *schema.get("required", [])]))[:PROPERTIES_MAX]
    return {name: _value(properties.get(name, {}), root, dice, depth + 1) for name in names}


def _array(schema: dict[str, Any], root: Any, dice: Dice, depth: int) -> list[Any]:
    fixed = schema.get("prefixItems", [])
    least = max(schema.get("minItems", 0), len(fixed))
    most = min(schema.get("maxItems", max(least, 3)), PROPERTIES_MAX)
    count = least + dice.below(max(1, most - least + 1))
    items = schema.get("items", {})
    return [_value(fixed[i] if i < len(fixed) else items, root, dice, depth + 1) for i in range(count)]


def _integer(schema: dict[str, Any], dice: Dice) -> int:
    step = schema.get("multipleOf", 1)
    if not isinstance(step, int):
        raise CannotSampleError(f"an integer that is a multiple of {step}")
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1)
    first, last = -(-int(low) // step), int(high) // step
    if last < first:
        raise CannotSampleError("an integer with no room between its bounds")
    return (first + dice.below(last - first + 1)) * step


def _number(schema: dict[str, Any], dice: Dice) -> float:
    if "multipleOf" in schema:
        return float(_integer(schema, dice))
    low = float(schema.get("minimum", schema.get("exclusiveMinimum", 0)))
    high = float(schema.get("maximum", schema.get("exclusiveMaximum", low + 1)))
    return round(low + (high - low) * (1 + dice.below(98)) / 100, 6)


_FORMATS: Final = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "simulated@example.invalid",
    "uri": "https://simulated.example.invalid/",
    "uuid": "00000000-0000-5000-8000-000000000000",
}


def _string(schema: dict[str, Any], dice: Dice) -> str:
    if "pattern" in schema:
        raise CannotSampleError("a string with a pattern")
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    text = prose(dice, max(least, 24))
    return text if most is None else text[:most].ljust(least, "-")


def _referenced(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise CannotSampleError(f"a reference out of the schema: {reference}")
    target = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or name not in target:
            raise CannotSampleError(f"a reference to nothing: {reference}")
        target = target[name]
    return target


def _merged(schema: dict[str, Any], without: str, part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kept = {name: own for name, own in schema.items() if name != without}
    merged = {**kept, **part}
    if "properties" in kept and "properties" in part:
        merged["properties"] = {**kept["properties"], **part["properties"]}
    if "required" in kept and "required" in part:
        merged["required"] = [*kept["required"], *part["required"]]
    return merged

"""Owns JSON Schemas in use: compiled once, never fetched from anywhere, faults named by their JSON path."""

from collections.abc import Sequence
from typing import Any, Final

import jsonschema_rs

FAULT_CHARACTERS_MAX: Final = 400


class SchemaError(ValueError):
    """A JSON Schema that is none; the message says where."""


class Schema:
    """A compiled JSON Schema."""

    __slots__ = ("_validator",)

    def __init__(self, schema: dict[str, Any]) -> None:
        """Raises SchemaError. A `$ref` that leaves the schema is an error: nothing is fetched."""
        try:
            self._validator = jsonschema_rs.validator_for(schema, offline=True)
        except jsonschema_rs.ValidationError as error:
            raise SchemaError(f"{json_path(error.instance_path)}: {_shortened(error.message)}") from None
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise SchemaError(_shortened(str(error))) from None

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, by the path of the first fault: `$.items[0].name: …`; None: nothing."""
        if self._validator.is_valid(value):
            return None
        for error in self._validator.iter_errors(value):
            return f"{json_path(error.instance_path)}: {_shortened(error.message)}"
        return None


def compile_schema(schema: dict[str, Any] | None) -> Schema | None:
    """The schema compiled; None for one that allows everything. Raises SchemaError."""
    return Schema(schema) if schema else None


def embedded(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema as a part of another, and what must stand at that one's root: its references are paths from there."""
    part = {name: each for name, each in schema.items() if name not in ("$defs", "$schema", "$id")}
    return part, {"$defs": schema["$defs"]} if "$defs" in schema else {}


def json_path(parts: Sequence[str | int]) -> str:
    """`$.documents[0].name`."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _shortened(text: str) -> str:
    return text if len(text) <= FAULT_CHARACTERS_MAX else text[: FAULT_CHARACTERS_MAX - 1] + "…"

"""Owns the second look at structured output: is it JSON, and does it fit the schema that was asked for."""

from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from penstock.contracts.messages import NextMove, WorkError

SCHEMAS_MAX: Final = 256
"""Compiled schemas kept; a deployment has about one per model step."""


class SchemaRefusedError(ValueError):
    """The schema itself cannot be used; the message says why."""


def checked(text: str, schema: dict[str, Any]) -> bytes | WorkError:
    """The output as JSON, or why the model has to try again. Raises SchemaRefusedError."""
    validator = _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _invalid(f"not JSON: {error}")
    fault = next(iter(validator.iter_errors(value)), None)
    if fault is not None:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
        return _invalid(f"output{path}: {fault.message}")
    return orjson.dumps(value)


def check_schema(schema: dict[str, Any]) -> None:
    """Raises SchemaRefusedError for a schema that cannot be compiled."""
    _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))


@lru_cache(maxsize=SCHEMAS_MAX)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    # Offline: a schema is data of its author's, and makes this process fetch nothing.
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema), offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaRefusedError(f"output_schema cannot be used: {error}") from error


def _invalid(message: str) -> WorkError:
    return WorkError(code="output_invalid", message=message[:2000], next=NextMove.REPAIR_OUTPUT)

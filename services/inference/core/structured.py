"""Owns the second look at what a model gave: is it what was asked for, whatever its engine promised."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
import orjson

from penstock.contracts.messages import InferenceRequested, NextMove, ToolCall, ToolSignature, WorkError
from penstock.contracts.regexes import matches

SCHEMAS_MAX: Final = 256
"""Compiled schemas kept; a deployment has about one per model step."""


class SchemaRefusedError(ValueError):
    """The schema itself cannot be used; the message says why."""


def answered(text: str, tool_calls: Sequence[ToolCall], request: InferenceRequested) -> bytes | WorkError:
    """The answer as JSON, or why the model has to try again. An answer that calls tools need not say anything."""
    fault = _calls_fault(tool_calls, request)
    if fault is not None:
        return fault
    if tool_calls:
        return orjson.dumps(text)
    if request.output_schema is not None:
        return checked(text, request.output_schema)
    if request.choices is not None and text not in request.choices:
        return _invalid(f"{_quoted(text)} is none of the {len(request.choices)} choices")
    if request.regex is not None and not matches(request.regex, text):
        return _invalid(f"{_quoted(text)} does not match the regex {request.regex}")
    return orjson.dumps(text)


def embedded(vectors: Sequence[Sequence[float]] | None, inputs: Sequence[str]) -> bytes | WorkError:
    """The vectors as JSON, or what is wrong with them: one per input, all of one length, all numbers finite."""
    count = 0 if vectors is None else len(vectors)
    if vectors is None or count != len(inputs):
        return _broken(f"{count} vectors for {len(inputs)} inputs")
    lengths = {len(vector) for vector in vectors}
    if len(lengths) != 1 or not all(math.isfinite(number) for vector in vectors for number in vector):
        return _broken(f"vectors of {sorted(lengths)} numbers, or numbers that are not finite")
    return orjson.dumps(vectors)


def checked(text: str, schema: dict[str, Any]) -> bytes | WorkError:
    """The output as JSON, or why the model has to try again. Raises SchemaRefusedError."""
    validator = _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _invalid(f"not JSON: {error}")
    fault = _first_fault(validator, value, "output")
    return orjson.dumps(value) if fault is None else _invalid(fault)


def check_schema(schema: dict[str, Any]) -> None:
    """Raises SchemaRefusedError for a schema that cannot be compiled."""
    _validator(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS))


def _calls_fault(calls: Sequence[ToolCall], request: InferenceRequested) -> WorkError | None:
    """What is wrong with the tools that the model asks for."""
    choice = request.tool_choice or "auto"
    if not calls:
        missing = request.tools and choice not in ("auto", "none")
        return _invalid(f"no tool was called, and `tool_choice` is {choice!r}") if missing else None
    known: dict[str, ToolSignature] = {tool.name: tool for tool in request.tools or ()}
    for call in calls:
        tool = known.get(call.name)
        if tool is None:
            return _arguments(f"there is no tool {call.name!r}; there is {', '.join(known) or 'none'}")
        if choice == "none" or (choice in known and call.name != choice):
            return _arguments(f"{call.name!r} was called, and `tool_choice` is {choice!r}")
        validator = _validator(orjson.dumps(tool.parameters, option=orjson.OPT_SORT_KEYS))
        fault = _first_fault(validator, call.arguments, f"{call.name}.arguments")
        if fault is not None:
            return _arguments(fault)
    return None


def _first_fault(validator: jsonschema_rs.Validator, value: Any, name: str) -> str | None:
    fault = next(iter(validator.iter_errors(value)), None)
    if fault is None:
        return None
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
    return f"{name}{path}: {fault.message}"


@lru_cache(maxsize=SCHEMAS_MAX)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    # Offline: a schema is data of its author's, and makes this process fetch nothing.
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema), offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaRefusedError(f"the schema cannot be used: {error}") from error


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "…")


def _invalid(message: str) -> WorkError:
    return WorkError(code="output_invalid", message=message[:2000], next=NextMove.REPAIR_OUTPUT)


def _arguments(message: str) -> WorkError:
    return WorkError(code="tool_arguments_invalid", message=message[:2000], next=NextMove.REPAIR_OUTPUT)


def _broken(message: str) -> WorkError:
    return WorkError(code="embeddings_invalid", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)

"""Tests of the second look at structured output."""

from typing import Any

import pytest

from penstock.contracts.messages import NextMove, WorkError
from services.inference.core.structured import SchemaRefusedError, check_schema, checked

SCHEMA = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "integer"}}},
    "required": ["items"],
}


def test_output_that_fits_is_compact_json() -> None:
    assert checked('{ "items": [1, 2] }', SCHEMA) == b'{"items":[1,2]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"items": [1', "not JSON"),
        ('{"items": [1, "two"]}', "output.items[1]: "),
        ("{}", 'output: "items" is a required property'),
    ],
)
def test_output_that_misses_asks_for_a_repair_and_names_the_path(text: str, message: str) -> None:
    error = checked(text, SCHEMA)

    assert isinstance(error, WorkError)
    assert (error.code, error.next) == ("output_invalid", NextMove.REPAIR_OUTPUT)
    assert message in error.message


@pytest.mark.parametrize(
    "schema",
    [{"type": "wrong"}, {"$ref": "https://example.invalid/schema.json"}, {"properties": {"a": {"pattern": "("}}}],
)
def test_a_schema_that_cannot_be_used_is_refused_without_asking_anybody(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaRefusedError):
        check_schema(schema)

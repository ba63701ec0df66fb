"""Tests of the text and JSON of the engine that is none."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.sample import MARK, CannotSampleError, Dice, prose, value

SMALL = st.integers(0, 80)
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, SMALL, SMALL),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, SMALL, SMALL),
    st.builds(lambda low: {"type": "number", "minimum": low, "exclusiveMaximum": low + 1}, SMALL),
    st.just({"type": "number"}),
    st.just({"type": "integer", "multipleOf": 5, "minimum": 3, "maximum": 12}),
    st.just({"type": "boolean"}),
    st.just({"type": ["null", "string"]}),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(), min_size=1)),
    st.builds(lambda constant: {"const": constant}, st.integers() | st.text()),
    st.just({"type": "string", "format": "date-time"}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)},
            st.dictionaries(st.text(), inner, max_size=4),
        ),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 4)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
    ),
    max_leaves=12,
)


@given(SCHEMAS, st.binary())
def test_values_fit_their_schema_and_follow_from_the_seed(schema: dict[str, Any], seed: bytes) -> None:
    sampled = value(schema, Dice(seed))

    assert jsonschema_rs.is_valid(schema, sampled)
    assert value(schema, Dice(seed)) == sampled


def test_strings_are_marked_wherever_they_are_free() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/s"}}},
        "$defs": {"s": {"type": "string", "minLength": 40}},
    }

    sampled = value(schema, Dice(b"seed"))

    assert sampled["a"].startswith(MARK)
    assert all(text.startswith(MARK) for text in sampled["b"])


@pytest.mark.parametrize(
    "schema", [False, {"type": "string", "pattern": "^a"}, {"$ref": "https://example.invalid"}, {"$ref": "#"}]
)
def test_what_it_does_not_know_it_says(schema: Any) -> None:
    with pytest.raises(CannotSampleError):
        value(schema, Dice(b""))


def test_prose_is_marked_and_about_as_long_as_asked() -> None:
    text = prose(Dice(b"1"), 200)

    assert text.startswith(MARK)
    assert 200 <= len(text) < 220
    assert text != prose(Dice(b"2"), 200)

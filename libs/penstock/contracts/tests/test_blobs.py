"""Owns the examples of blob references: what becomes one, what is one, and what they stand for."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.blobs import (
    INLINE_BYTES_MAX,
    MARK,
    VALUE_BYTES_MAX,
    WHOLE_BYTES_MAX,
    Reference,
    ValueTooLargeError,
    externalised,
    parsed_digest,
    reference_of,
    reference_to,
    references_in,
    replaced,
)

LARGE = "x" * 70_000
MEDIUM = "x" * 30_000
REFERENCE = {"$blob": f"sha256:{'0a' * 32}", "bytes": 12, "media_type": "application/json"}


def whole(value: Any, contents: dict[Reference, bytes]) -> Any:
    return replaced(value, lambda reference: orjson.loads(contents[reference]))


def stubbed(value: Any) -> Any:
    """The value with an ellipsis for each reference."""
    match value:
        case dict() if reference_of(value):
            return ...
        case dict():
            return {key: stubbed(item) for key, item in value.items()}
        case list():
            return [stubbed(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize(
    ("value", "travels"),
    [
        ({"name": "small"}, {"name": "small"}),
        (LARGE, ...),
        ({"document": LARGE, "language": "en"}, {"document": ..., "language": "en"}),
        (
            {"files": [{"text": LARGE, "name": "a"}, {"name": "b"}]},
            {"files": [{"text": ..., "name": "a"}, {"name": "b"}]},
        ),
        ({"a": MEDIUM, "b": MEDIUM[1:], "c": MEDIUM[2:], "d": 1}, {"a": ..., "b": MEDIUM[1:], "c": MEDIUM[2:], "d": 1}),
        ({"rows": [[number] * 10 for number in range(5_000)], "unit": "m"}, {"rows": ..., "unit": "m"}),
        ({str(number): "y" * 600 for number in range(200)}, ...),
        ({str(number): "y" * 2_000 for number in range(200)}, ...),
    ],
    ids=["small", "text", "a field", "deep", "the largest of several", "a long list", "many small", "many medium"],
)
def test_what_is_large_travels_as_a_reference_and_what_is_beside_it_as_it_is(value: Any, travels: Any) -> None:
    small = externalised(value)

    assert stubbed(small.value) == travels
    assert len(orjson.dumps(small.value)) <= INLINE_BYTES_MAX
    assert whole(small.value, small.contents) == value
    assert externalised(value) == small


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.integers(0, 90_000).map(lambda size: "ü" * (size // 2)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_whatever_is_taken_apart_is_put_together_again(value: Any) -> None:
    small = externalised(value)
    encoded = orjson.dumps(small.value)

    assert len(encoded) <= INLINE_BYTES_MAX
    assert all(reference_to(content) == reference for reference, content in small.contents.items())
    assert bool(list(references_in(small.value))) == (MARK in encoded) == bool(small.contents)
    assert whole(small.value, small.contents) == value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("x" * VALUE_BYTES_MAX, "$.input"),
        ({"pages": ["", {"text": "x" * VALUE_BYTES_MAX}]}, "$.input.pages[1].text"),
        ({"a": "x" * (VALUE_BYTES_MAX // 2), "b": "x" * (VALUE_BYTES_MAX // 2)}, "$.input"),
    ],
)
def test_what_is_too_large_is_refused_by_its_path(value: Any, path: str) -> None:
    with pytest.raises(ValueTooLargeError, match=f"the limit is {VALUE_BYTES_MAX}") as refused:
        externalised(value, "$.input")

    assert refused.value.path == path


@pytest.mark.parametrize(
    "value",
    [
        {**REFERENCE, "more": 1},
        {**REFERENCE, "$blob": "sha256:12"},
        {**REFERENCE, "$blob": f"sha256:{'0A' * 32}"},
        {**REFERENCE, "$blob": 1},
        {**REFERENCE, "bytes": "12"},
        {**REFERENCE, "bytes": True},
        {**REFERENCE, "bytes": -1},
        {**REFERENCE, "media_type": "json"},
        {"$blob": REFERENCE["$blob"]},
        [REFERENCE["$blob"]],
        "sha256",
        None,
    ],
)
def test_what_is_like_a_reference_is_a_value_like_any_other(value: Any) -> None:
    assert reference_of(value) is None
    assert replaced({"a": value}, lambda _: pytest.fail("looked up")) == {"a": value}


def test_a_reference_reads_back_as_itself() -> None:
    assert reference_of(REFERENCE) == Reference("0a" * 32, 12)
    assert Reference("0a" * 32, 12).to_value() == REFERENCE
    assert parsed_digest(f"sha256:{'0a' * 32}") == "0a" * 32


def test_an_image_stays_a_reference() -> None:
    image = {**REFERENCE, "media_type": "image/png"}

    assert replaced({"image": image}, lambda _: pytest.fail("looked up")) == {"image": image}


def test_references_inside_contents_are_replaced_too() -> None:
    inner = reference_to(b'"deep"')
    outer = reference_to(orjson.dumps({"inner": inner.to_value()}))
    contents = {inner: b'"deep"', outer: orjson.dumps({"inner": inner.to_value()})}

    assert whole([outer.to_value(), 1], contents) == [{"inner": "deep"}, 1]


def test_references_that_repeat_cannot_mean_more_than_fits_into_memory() -> None:
    """Guard: a small value of references to one blob does not become gigabytes."""
    large = Reference("0a" * 32, VALUE_BYTES_MAX)

    with pytest.raises(ValueTooLargeError, match=str(WHOLE_BYTES_MAX)):
        replaced([large.to_value()] * 5, lambda _: "")
    assert replaced([large.to_value()] * 4, lambda _: "") == [""] * 4

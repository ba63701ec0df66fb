"""Owns the promise that a record reads the same in binary and structured mode, and that what is broken is named."""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.envelope import (
    Envelope,
    Headers,
    MalformedEnvelopeError,
    decode,
    encode,
    has_identity,
    rfc3339,
    to_headers,
)
from penstock.contracts.ids import TENANT_PATTERN
from penstock.contracts.messages import RunRequested
from penstock.contracts.topics import INFERENCE_REQUESTED, RUN_REQUESTED

TOPIC = RUN_REQUESTED.name
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
envelopes = st.builds(
    Envelope,
    id=words,
    type=words,
    source=words,
    time=st.integers(0, 4_102_444_800_000).map(rfc3339),
    tenant=st.from_regex(TENANT_PATTERN, fullmatch=True),
    correlation_id=st.none() | words,
    causation_id=st.none() | words,
    traceparent=st.none() | words,
)


def read(headers: Sequence[tuple[str, bytes]], value: bytes | None) -> tuple[Envelope, bytes]:
    return decode(TOPIC, 2, 17, 1_700_000_000_123, headers, value)


def structured(envelope: Envelope, **data: object) -> bytes:
    names = {
        "specversion": "1.0",
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "time": envelope.time,
        "tenant": envelope.tenant,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "traceparent": envelope.traceparent,
    }
    return json.dumps({name: text for name, text in names.items() if text is not None} | data).encode()


@given(envelopes)
def test_binary_mode_comes_back_as_it_went_out(envelope: Envelope) -> None:
    assert read(to_headers(envelope), b"{}") == (envelope, b"{}")


@given(envelopes, json_values)
def test_structured_mode_says_what_binary_mode_says(envelope: Envelope, data: object) -> None:
    body = json.dumps(data).encode()

    binary, _ = read(to_headers(envelope), body)
    unwrapped, value = read(STRUCTURED, structured(envelope, data=data))

    assert unwrapped == binary
    assert json.loads(value) == data


@given(envelopes, st.binary(max_size=64))
def test_data_base64_carries_any_bytes(envelope: Envelope, data: bytes) -> None:
    unwrapped, value = read(STRUCTURED, structured(envelope, data_base64=base64.b64encode(data).decode()))

    assert (unwrapped, value) == (envelope, data)


def test_a_record_without_headers_is_identified_by_its_position() -> None:
    envelope, value = read([], b'{"workflow":"greet"}')

    assert envelope == Envelope(
        id=f"{TOPIC}/2/17",
        type=TOPIC,
        source=f"kafka:{TOPIC}",
        time="2023-11-14T22:13:20.123Z",
        tenant="default",
    )
    assert value == b'{"workflow":"greet"}'
    assert not has_identity([])


def test_the_media_type_is_read_without_regard_to_case() -> None:
    envelope, _ = read([("content-type", b"Application/CloudEvents+JSON")], structured(Envelope("7", "t", "s", "x")))

    assert envelope.id == "7"


def test_a_traceparent_header_goes_before_the_one_inside() -> None:
    inside = structured(Envelope("7", "t", "s", "x", traceparent="inside"))

    assert read([*STRUCTURED, ("traceparent", b"outside")], inside)[0].traceparent == "outside"
    assert read(STRUCTURED, inside)[0].traceparent == "inside"


@pytest.mark.parametrize("name", ["ce_id", "ce_tenant", "ce_whatever", "content-type", "traceparent"])
@pytest.mark.parametrize("raw", [b"\xff\xfe", None], ids=["not UTF-8", "null"])
def test_an_attribute_that_is_not_text_is_named(name: str, raw: bytes) -> None:
    with pytest.raises(MalformedEnvelopeError, match=f"'{name}' is not UTF-8"):
        read([(name, raw)], b"{}")


@given(words.filter(lambda name: not name.startswith("ce_")), st.binary(max_size=16))
def test_somebody_elses_header_is_let_be_whatever_its_bytes(name: str, raw: bytes) -> None:
    assert read([("x-" + name, raw)], b"{}") == read([], b"{}")


@pytest.mark.parametrize(
    ("headers", "value", "fault"),
    [
        ([], None, "no value"),
        (STRUCTURED, None, "no value"),
        (STRUCTURED, b"", "not JSON"),
        (STRUCTURED, b"{'id': 1}", "not JSON"),
        (STRUCTURED, b"\xff{}", "not JSON"),
        (STRUCTURED, b"[]", "not a JSON object"),
        ([("content-type", b"application/cloudevents-batch+json")], b'[{"id": "1"}]', "not a JSON object"),
        (STRUCTURED, b'{"data_base64": "?"}', "not base64"),
        (STRUCTURED, b'{"data_base64": "YQ"}', "not base64"),
        (STRUCTURED, b'{"data_base64": null}', "not base64"),
        (STRUCTURED, b'{"data_base64": 5}', "not base64"),
    ],
)
def test_what_cannot_be_read_is_named(headers: Headers, value: bytes | None, fault: str) -> None:
    with pytest.raises(MalformedEnvelopeError, match=fault):
        read(headers, value)


@given(st.lists(st.tuples(words, st.binary(max_size=16)), max_size=4), st.binary(max_size=64))
def test_no_record_does_anything_but_be_read_or_be_refused(headers: Headers, value: bytes) -> None:
    for prefix in ("", "ce_"):
        with suppress(MalformedEnvelopeError):
            read([*STRUCTURED, *((prefix + name, raw) for name, raw in headers)], value)


def test_a_message_of_a_family_goes_to_the_named_topic() -> None:
    envelope = Envelope("7", INFERENCE_REQUESTED.event_type, "penstock/orchestrator", rfc3339(0))
    name = INFERENCE_REQUESTED.named(pool="small", lane="batch")

    record = encode(INFERENCE_REQUESTED, RunRequested(workflow="greet"), envelope, key="r", name=name, partition=3)

    assert (record.topic, record.key, record.partition) == ("penstock.inference.small.batch.requested.v1", b"r", 3)
    assert json.loads(record.value) == {"workflow": "greet", "input": {}, "labels": {}, "priority": "standard"}
    assert dict(record.headers)["ce_type"] == b"penstock.inference.requested.v1"

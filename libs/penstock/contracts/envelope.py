"""Owns the outside of a record: CloudEvents 1.0 attributes, in Kafka binary mode out and in, structured mode in.

Kafka protocol binding for CloudEvents 1.0.2: attributes are headers `ce_*`, the body is the value; a content type
that starts with `application/cloudevents` means structured mode, where the value holds attributes and data.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from penstock.contracts.ids import DEFAULT_TENANT
from penstock.contracts.messages import Message
from penstock.contracts.topics import Topic

Headers = list[tuple[str, bytes]]

_JSON = b"application/json"


class MalformedEnvelopeError(ValueError):
    """The record's headers or its structured wrapping cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The CloudEvents attributes of one record. `time` is RFC 3339, `correlation_id` the run id."""

    id: str
    type: str
    source: str
    time: str
    tenant: str = DEFAULT_TENANT
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


@dataclass(slots=True)
class Outgoing:
    """A record on its way to the broker. `partition` None means: by the key's hash."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    partition: int | None = None


def rfc3339(at_ms: int) -> str:
    """Milliseconds since 1970 UTC as RFC 3339 with milliseconds."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{milliseconds:03d}Z"


def to_headers(envelope: Envelope) -> Headers:
    """Binary mode. Attributes that are not set are left out."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", envelope.id.encode()),
        ("ce_type", envelope.type.encode()),
        ("ce_source", envelope.source.encode()),
        ("ce_time", envelope.time.encode()),
        ("ce_tenant", envelope.tenant.encode()),
        ("content-type", _JSON),
    ]
    if envelope.correlation_id is not None:
        headers.append(("ce_correlationid", envelope.correlation_id.encode()))
    if envelope.causation_id is not None:
        headers.append(("ce_causationid", envelope.causation_id.encode()))
    if envelope.traceparent is not None:
        headers.append(("traceparent", envelope.traceparent.encode()))
    return headers


class Heading:
    """What the headers of all records of one topic from one source share, for senders of many records.

    `headers` gives what `to_headers` would, without building an Envelope for each record.
    """

    __slots__ = ("shared",)

    def __init__(self, topic: Topic[Any], source: str) -> None:
        self.shared: Final = (
            ("ce_specversion", b"1.0"),
            ("ce_type", topic.event_type.encode()),
            ("ce_source", source.encode()),
            ("content-type", _JSON),
        )

    def headers(  # one per attribute
        self, event_id: str, time: bytes, tenant: bytes, run_id: bytes, cause: str, traceparent: str
    ) -> Headers:
        """The headers of one record."""
        return [
            *self.shared,
            ("ce_id", event_id.encode()),
            ("ce_time", time),
            ("ce_tenant", tenant),
            ("ce_correlationid", run_id),
            ("ce_causationid", cause.encode()),
            ("traceparent", traceparent.encode()),
        ]


def encode(
    topic: Topic[Any],
    message: Message,
    envelope: Envelope,
    *,
    key: str | None,
    name: str | None = None,
    partition: int | None = None,
) -> Outgoing:
    """One record of `topic`; `name` is the broker topic's where the registry entry is a family."""
    return Outgoing(
        topic=name if name is not None else topic.name,
        key=None if key is None else key.encode(),
        value=message.to_json(),
        headers=to_headers(envelope),
        partition=partition,
    )


def decode(
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    headers: Iterable[tuple[str, bytes]],
    value: bytes | None,
) -> tuple[Envelope, bytes]:
    """The attributes and the body of a record; what a plain producer left out is filled in from the position.

    Raises MalformedEnvelopeError for a missing value, non-UTF-8 attributes or a broken structured wrapping.
    """
    if value is None:
        raise MalformedEnvelopeError("the record has no value")
    attributes = _attributes(headers)
    if attributes.get("content-type", "").lower().startswith("application/cloudevents"):
        attributes, value = _unwrap(value, attributes)
    return (
        Envelope(
            id=attributes.get("ce_id") or f"{topic}/{partition}/{offset}",
            type=attributes.get("ce_type") or topic,
            source=attributes.get("ce_source") or f"kafka:{topic}",
            time=attributes.get("ce_time") or rfc3339(timestamp_ms),
            tenant=attributes.get("ce_tenant") or DEFAULT_TENANT,
            correlation_id=attributes.get("ce_correlationid"),
            causation_id=attributes.get("ce_causationid"),
            traceparent=attributes.get("traceparent") or attributes.get("ce_traceparent"),
        ),
        value,
    )


def decode_body(headers: Iterable[tuple[str, bytes]], value: bytes | None) -> tuple[str | None, bytes]:
    """The event id, where there is one, and the body: what a reader of answers needs, and what `decode` would say.

    Raises MalformedEnvelopeError as `decode` does.
    """
    if value is None:
        raise MalformedEnvelopeError("the record has no value")
    given = dict(headers)
    if given.get("content-type", _JSON) != _JSON:
        attributes = _attributes(headers)
        if attributes["content-type"].lower().startswith("application/cloudevents"):
            attributes, value = _unwrap(value, attributes)
            return attributes.get("ce_id"), value
    event_id = given.get("ce_id")
    try:
        return None if event_id is None else event_id.decode(), value
    except UnicodeDecodeError as error:
        raise MalformedEnvelopeError("header 'ce_id' is not UTF-8 text") from error


def has_identity(headers: Sequence[tuple[str, bytes]]) -> bool:
    """Whether the sender gave the event an id and a source of its own (binary mode)."""
    names = {name for name, _ in headers}
    return "ce_id" in names and "ce_source" in names


def _attributes(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for name, raw in headers:
        if not (name.startswith("ce_") or name in ("content-type", "traceparent")):
            continue  # somebody else's header is none of our business, whatever its bytes
        try:
            attributes[name] = raw.decode()
        except (UnicodeDecodeError, AttributeError) as error:
            raise MalformedEnvelopeError(f"header {name!r} is not UTF-8 text") from error
    return attributes


def _unwrap(value: bytes, outer: dict[str, str]) -> tuple[dict[str, str], bytes]:
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise MalformedEnvelopeError(f"the structured event is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise MalformedEnvelopeError("the structured event is not a JSON object")
    if "data_base64" in event:
        try:
            data = base64.b64decode(event["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise MalformedEnvelopeError("data_base64 is not base64") from error
    else:
        data = orjson.dumps(event.get("data"))
    inner = {f"ce_{name}": text for name, text in event.items() if isinstance(text, str)}
    return {"traceparent": outer.get("traceparent", ""), **inner}, data

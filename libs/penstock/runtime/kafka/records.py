"""Owns single records: what was received, which partition a key has, what a dead letter holds."""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from aiokafka.structs import TopicPartition

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import dead_letter_topic

__all__ = ["Received", "TopicPartition", "dead_letter", "identity", "partition_of", "size_of"]

RECORD_OVERHEAD_BYTES = 24
HEADER_OVERHEAD_BYTES = 6
ERROR_PREFIX = "__dlq.errors."
MESSAGE_CHARACTERS_MAX = 2000


class Received(Protocol):
    """A record as a consumer hands it out; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


def identity(record: Received) -> str:
    """What makes two deliveries the same event: CloudEvents source and id, else the position."""
    event_id = source = None
    for name, value in record.headers:
        if name == "ce_id":
            event_id = value
        elif name == "ce_source":
            source = value
    if event_id is None:
        return f"{record.topic}/{record.partition}/{record.offset}"
    return f"{source!r} {event_id!r}"


def size_of(record: Outgoing) -> int:
    """An upper bound of the bytes a record takes in a batch."""
    headers = record.headers
    size = RECORD_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES * len(headers)
    size += len(record.value or b"") + len(record.key or b"")
    for name, value in headers:
        size += len(name) + len(value or b"")
    return size


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's own clients choose for a key."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=65_536)
def _murmur2(data: bytes) -> int:
    """Murmur2 as in Kafka's Utils.murmur2 (seed 0x9747b28c), word by word."""
    length = len(data)
    mask, mix = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ length
    words, tail = divmod(length, 4)
    for word in struct.unpack_from(f"<{words}I", data):
        k = (word * mix) & mask
        value = ((value * mix) & mask) ^ (((k ^ (k >> 24)) * mix) & mask)
    if tail:
        value = ((value ^ int.from_bytes(data[-tail:], "little")) * mix) & mask
    value = ((value ^ (value >> 13)) * mix) & mask
    return value ^ (value >> 15)


def dead_letter(
    record: Received, reason: str, exception: BaseException | None, group_id: str, *, deliveries: int = 1
) -> Outgoing:
    """The record byte for byte, on its dead letter topic, with why it is there."""
    said = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "group": group_id,
        "delivery.count": str(deliveries),
        "exception": "" if exception is None else f"{type(exception).__module__}.{type(exception).__qualname__}",
        "message": reason[:MESSAGE_CHARACTERS_MAX],
    }
    return Outgoing(
        topic=dead_letter_topic(record.topic),
        key=record.key,
        value=record.value,  # type: ignore[arg-type]  # a tombstone can be poison too, and stays one
        headers=[
            *record.headers,
            *((ERROR_PREFIX + name, text.encode(errors="backslashreplace")) for name, text in said.items()),
        ],
    )

"""Single records: partitions as Kafka's own clients choose them, identity, dead letters."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.kafka.records import dead_letter, identity, partition_of
from penstock.testkit.log import MemoryRecord


@given(st.binary(max_size=80), st.integers(1, 64))
def test_partitions_are_kafkas(key: bytes, count: int) -> None:
    """Given any key, then the partition is the one that the other clients choose."""
    assert partition_of(key, count) == (murmur2(key) & 0x7FFFFFFF) % count


def test_identity_is_source_and_id_else_the_position() -> None:
    """Given events, when source or id differ, then they are different; without an id the position tells."""
    first = MemoryRecord("t", 1, 2, 0, None, b"", (("ce_id", b"1"), ("ce_source", b"a")))
    again = MemoryRecord("t", 1, 9, 0, None, b"", (("ce_source", b"a"), ("ce_id", b"1")))
    other = MemoryRecord("t", 1, 2, 0, None, b"", (("ce_id", b"1"), ("ce_source", b"b")))

    assert identity(first) == identity(again) != identity(other)
    assert identity(MemoryRecord("t", 1, 2, 0, None, b"")) == "t/1/2"


def test_a_dead_letter_keeps_what_is_no_text() -> None:
    """Given a tombstone with headers that are no text, then the dead letter is one too, with the reason added."""
    record = MemoryRecord("t", 1, 2, 0, b"\xff", None, (("x", b"\xfe"),))

    letter = dead_letter(record, "why \ud800", ValueError("v"), "g", deliveries=3)

    assert (letter.topic, letter.key, letter.headers[0]) == ("dlq.t", b"\xff", ("x", b"\xfe"))
    assert letter.value == record.value
    assert ("__dlq.errors.delivery.count", b"3") in letter.headers
    assert ("__dlq.errors.message", b"why \\ud800") in letter.headers

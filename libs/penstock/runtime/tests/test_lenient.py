"""Header names that are not UTF-8: the record that has one is read, and so are those around it."""

from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.kafka.broker import GroupSettings, KafkaBroker

PLACEHOLDER = "x-placeholder"
CRC, CRC_OF = slice(17, 21), 21


def with_name(batch: bytes, name: bytes) -> bytes:
    """The batch with its placeholder of a header name replaced by as many bytes of another, under a right checksum."""
    changed = bytearray(batch)
    at = changed.index(PLACEHOLDER.encode())
    changed[at : at + len(PLACEHOLDER)] = name.ljust(len(PLACEHOLDER), b"_")[: len(PLACEHOLDER)]
    changed[CRC] = calc_crc32c(bytes(changed[CRC_OF:])).to_bytes(4, "big")
    return bytes(changed)


def read(data: bytes, fetch_offset: int = 0) -> list[Any]:
    """What a consumer hands out of fetched bytes."""
    records = fetcher.MemoryRecords(data)
    return list(fetcher.PartitionRecords(TopicPartition("t", 0), records, None, fetch_offset, None, None, True, 0))


@given(name=st.binary(min_size=1, max_size=len(PLACEHOLDER)))
def test_any_bytes_may_be_a_header_name(name: bytes) -> None:
    """Given three records of which the second's header name is any bytes, when they are read, then all three are."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    for offset in range(3):
        header = (PLACEHOLDER if offset == 1 else "fine", b"\xff\x00")
        batch.append(offset, timestamp=1, key=b"k", value=b"v%d" % offset, headers=[header, ("ce_id", b"1")])
    data = with_name(batch.build(), name)

    found = read(data)

    assert [record.value for record in found] == [b"v0", b"v1", b"v2"]
    assert [record.headers[0][1] for record in found] == [b"\xff\x00"] * 3
    assert found[1].headers[1] == ("ce_id", b"1")
    assert found[1].headers[0][0].encode()  # so that a dead letter can carry it
    assert [record.value for record in read(data, 2)] == [b"v2"]


def test_what_was_handed_out_before_such_a_record_is_not_handed_out_again() -> None:
    """Guard: the batches of one fetch are read again from the first, past all that came before the odd name."""

    def a_batch(first: int) -> bytes:
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
        for offset in range(first, first + 3):
            header = (PLACEHOLDER if offset == 5 else "fine", b"1")
            builder.append(offset, timestamp=1, key=b"k", value=b"v%d" % offset, headers=[header])
        return bytes(builder.build())

    # given three batches in one fetch, with an odd name at the end of the second
    data = a_batch(0) + with_name(a_batch(3), b"\xff\xfe") + a_batch(6)

    # when they are read, then each record comes once
    assert [record.offset for record in read(data)] == list(range(9))
    assert [record.offset for record in read(data, 4)] == list(range(4, 9))


@pytest.mark.stack
async def test_a_partition_moves_on_past_such_a_record(stack: Any) -> None:
    """Given a real broker that took a record with such a name, when it is consumed, then what follows it is, too."""
    topic = await stack.new_topic(1)
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap_servers)
    await producer.start()
    batch = producer.create_batch()
    batch.append(key=b"k", value=b"odd", timestamp=None, headers=[(PLACEHOLDER, b"1")])
    build = batch._build
    batch._build = lambda: bytearray(with_name(bytes(build()), b"\xff\xfe"))
    await (await producer.send_batch(batch, topic, partition=0))
    await producer.send_and_wait(topic, b"good", partition=0)
    await producer.stop()

    consumer = KafkaBroker(stack.bootstrap_servers).consumer(GroupSettings(None))
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    values: list[bytes | None] = []
    while len(values) < 2:
        for records in (await consumer.getmany(timeout_ms=10_000)).values():
            values.extend(record.value for record in records)
    await consumer.stop()

    assert values == [b"odd", b"good"]

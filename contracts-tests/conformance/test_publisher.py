"""What the publisher promises: order per partition, an exact account, no record harmed by another."""

import asyncio

import pytest

from penstock.runtime.errors import NotAcknowledged, NotAllowed
from penstock.runtime.kafka.records import partition_of
from penstock.testkit.world import World, outgoing, values, within


async def test_records_of_a_partition_keep_their_order(world: World) -> None:
    """Given many small sends and batches that overflow, when all are acknowledged, then nothing was overtaken."""
    publisher = await world.publisher(batch_bytes_max=2000)
    sent = [outgoing(world.completed, b"%05d" % number, partition=number % 2) for number in range(600)]

    await within(asyncio.gather(*(publisher.send(sent[at : at + 7]) for at in range(0, 600, 7))))

    records = await world.read(world.completed, 600)
    for partition in (0, 1):
        got = [record.value for record in records if record.partition == partition]
        assert got == [b"%05d" % number for number in range(600) if number % 2 == partition]


async def test_a_key_goes_where_kafkas_own_clients_send_it(world: World) -> None:
    """Given keys, when no partition is named, then Kafka's murmur2 chooses."""
    publisher = await world.publisher()
    keys = [b"order-%d" % number for number in range(20)]

    await within(publisher.send([outgoing(world.completed, key, key=key) for key in keys]))

    records = await world.read(world.completed, 20)
    assert {record.key: record.partition for record in records} == {key: partition_of(key, 2) for key in keys}


async def test_what_was_sent_is_what_arrives(world: World) -> None:
    """Given a record with a null key and bytes that are no text, when it is read, then nothing was changed."""
    publisher = await world.publisher()
    record = outgoing(world.completed, b"\xff\xfe", key=None)
    record.headers = [("ce_id", b"\xff"), ("x", b"")]

    await within(publisher.send([record]))

    (got,) = await world.read(world.completed, 1)
    assert (got.key, got.value, list(got.headers)) == (None, b"\xff\xfe", [("ce_id", b"\xff"), ("x", b"")])


async def test_a_record_that_is_too_large_is_named_and_harms_no_other(world: World) -> None:
    """Given one record over the limit between others, when they are sent, then only it is not acknowledged."""
    publisher = await world.publisher()
    large = outgoing(world.completed, b"x" * 2_000_000, partition=0)
    small = [outgoing(world.completed, b"%d" % number, partition=0) for number in range(4)]

    with pytest.raises(NotAcknowledged) as refused:
        await within(publisher.send([*small[:2], large, *small[2:]]))

    assert refused.value.records == [large]
    assert refused.value.permanent
    assert values(await world.read(world.completed, 4)) == [b"0", b"1", b"2", b"3"]


async def test_a_record_the_broker_refuses_is_found_among_its_batch(world: World) -> None:
    """Given a record that only the broker finds too large, when its batch is refused, then it alone is named."""
    publisher = await world.publisher(record_bytes_max=10_000_000, batch_bytes_max=10_000_000)
    large = outgoing(world.completed, b"x" * 1_500_000, partition=0)
    small = [outgoing(world.completed, b"%d" % number, partition=0) for number in range(4)]

    with pytest.raises(NotAcknowledged) as refused:
        await within(publisher.send([*small[:2], large, *small[2:]]))
    await within(publisher.send([outgoing(world.completed, b"after", partition=0)]))

    assert refused.value.records == [large]
    assert values(await world.read(world.completed, 5)) == [b"0", b"1", b"2", b"3", b"after"]


async def test_a_topic_the_registry_does_not_give_is_refused(world: World) -> None:
    """Given a worker, when it wants to publish what only the orchestrator may, then it is told at once."""
    publisher = await world.publisher()

    with pytest.raises(NotAllowed):
        publisher.send([outgoing("penstock.run.finished.v1", b"{}")])
    with pytest.raises(NotAllowed):
        publisher.send([outgoing("dlq.penstock.run.requested.v1", b"{}")])


async def test_stop_flushes_and_later_sends_are_told(world: World) -> None:
    """Given records not yet acknowledged, when the publisher stops, then they are; what is sent later is not."""
    publisher = await world.publisher()
    first = publisher.send([outgoing(world.completed, b"1", partition=0)])

    await publisher.stop()

    assert first.done()
    assert first.exception() is None
    with pytest.raises(NotAcknowledged):
        await publisher.send([outgoing(world.completed, b"2", partition=0)])

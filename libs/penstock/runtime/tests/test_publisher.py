"""The publisher under faults that only the in-memory log can make on demand."""

import asyncio
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import MessageSizeTooLargeError, OutOfOrderSequenceNumber, TopicAuthorizationFailedError
from aiokafka.protocol.produce import ProduceRequest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.errors import NotAcknowledged
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.sending import PromptSender
from penstock.testkit.log import MemoryLog

TOPIC = "penstock.task.completed.v1"
USAGE = "penstock.usage.recorded.v1"


def record(value: bytes, topic: str = TOPIC, partition: int | None = 0) -> Outgoing:
    """A record."""
    return Outgoing(topic, b"k", value, [], partition)


async def started(log: MemoryLog, **options: float) -> Publisher:
    """A worker's publisher on the log."""
    publisher = Publisher(Service.WORKER, log, **options)  # type: ignore[arg-type]  # the options' types differ
    await publisher.start()
    return publisher


async def test_a_sequence_error_makes_a_new_producer_and_keeps_the_order() -> None:
    """Given a batch refused for its sequence, when it is sent again, then everything arrives in order."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    log.refuse_next(TOPIC, OutOfOrderSequenceNumber())

    sends = [publisher.send([record(b"%d" % number)]) for number in range(5)]
    await asyncio.sleep(0)
    sends += [publisher.send([record(b"%d" % number)]) for number in range(5, 9)]
    await asyncio.gather(*sends)

    assert [each.value for each in log.records(TOPIC)] == [b"%d" % number for number in range(9)]
    await publisher.stop()


async def test_a_broker_that_is_away_is_waited_for() -> None:
    """Given a broker away, when it comes back, then what was sent meanwhile is acknowledged, in order."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    log.go_away()
    sends = []
    for number in range(5):
        sends.append(publisher.send([record(b"%d" % number)]))
        await asyncio.sleep(0)
    assert not any(send.done() for send in sends)

    log.come_back()
    await asyncio.gather(*sends)

    assert [each.value for each in log.records(TOPIC)] == [b"%d" % number for number in range(5)]
    await publisher.stop()


async def test_memory_is_bounded_by_room() -> None:
    """Given more pending than allowed, then room() waits until enough is acknowledged."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log, pending_bytes_max=1000)
    log.go_away()
    sent = publisher.send([record(b"x" * 2000)])
    room = asyncio.ensure_future(publisher.room())
    await asyncio.sleep(0)
    assert not room.done()
    assert publisher.pending_bytes >= 2000

    log.come_back()
    await room
    await sent

    assert publisher.pending_bytes == 0
    await publisher.stop()


async def test_giving_up_names_exactly_what_was_not_acknowledged() -> None:
    """Given one topic acknowledged and a broker away for too long, then only the rest is named, as temporary."""
    log = MemoryLog({TOPIC: 1, USAGE: 1})
    publisher = await started(log, delivery_seconds=0.05)
    first = publisher.send([record(b"1")])
    await first
    log.go_away()
    lost = [record(b"2"), record(b"3", USAGE)]

    with pytest.raises(NotAcknowledged) as caught:
        await publisher.send(lost)

    assert sorted(map(id, caught.value.records)) == sorted(map(id, lost))
    assert not caught.value.permanent
    log.come_back()
    await publisher.stop()


async def test_a_refused_topic_harms_no_other() -> None:
    """Given a topic the broker denies, when records go to two topics, then only the denied one is named, for good."""
    log = MemoryLog({TOPIC: 1, USAGE: 1})
    publisher = await started(log)
    log.refuse_next(USAGE, TopicAuthorizationFailedError())
    denied = record(b"2", USAGE)

    with pytest.raises(NotAcknowledged) as caught:
        await publisher.send([record(b"1"), denied])

    assert (caught.value.records, caught.value.permanent) == ([denied], True)
    assert [each.value for each in log.records(TOPIC)] == [b"1"]
    await publisher.stop()


async def test_a_topic_that_appears_later_is_waited_for() -> None:
    """Given a topic that does not exist yet, when it is created, then its records arrive in order."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    sends = [publisher.send([record(b"%d" % number, USAGE, None)]) for number in range(3)]
    await publisher.send([record(b"other")])

    log.create_topic(USAGE, 1)
    await asyncio.gather(*sends)

    assert [each.value for each in log.records(USAGE)] == [b"0", b"1", b"2"]
    await publisher.stop()


async def test_what_is_no_record_is_named() -> None:
    """Given a value that is no bytes, then it alone is not acknowledged."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    wrong = record("text")  # type: ignore[arg-type]  # the fault

    with pytest.raises(NotAcknowledged) as caught:
        await publisher.send([record(b"1"), wrong, record(b"2")])

    assert caught.value.records == [wrong]
    assert [each.value for each in log.records(TOPIC)] == [b"1", b"2"]
    await publisher.stop()


async def test_stopping_while_the_broker_is_away_tells_the_senders() -> None:
    """Given a broker away, when the publisher stops, then every sender learns what was not acknowledged."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    log.go_away()
    sent = publisher.send([record(b"1")])

    await publisher.stop(flush_seconds=0.01)

    with pytest.raises(NotAcknowledged, match="stopped"):
        await sent


async def test_what_is_no_record_holds_nobody_up_after_a_refusal() -> None:
    """Given a batch refused as too large, when what waits behind it is no record, then those around it arrive."""
    log = MemoryLog({TOPIC: 1})
    publisher = await started(log)
    wrong = record("text")  # type: ignore[arg-type]  # the fault
    log.go_away()
    first = publisher.send([record(b"1"), record(b"2")])
    await asyncio.sleep(0)
    log.refuse_next(TOPIC, MessageSizeTooLargeError())
    await asyncio.sleep(0)
    behind = publisher.send([wrong, record(b"3")])

    log.come_back()
    await first
    with pytest.raises(NotAcknowledged) as caught:
        await behind

    assert caught.value.records == [wrong]
    assert [each.value for each in log.records(TOPIC)] == [b"1", b"2", b"3"]
    await publisher.stop()


async def test_one_send_is_accounted_apart_from_the_next() -> None:
    """Given a batch of records of several sends, when it is acknowledged, then each of them is told."""
    log = MemoryLog({TOPIC: 1, USAGE: 1})
    publisher = await started(log)
    sends = [
        publisher.send([record(b"%d" % number), record(b"u", USAGE), record(b"%d" % number)]) for number in range(3)
    ]

    await asyncio.gather(*sends)

    assert [each.value for each in log.records(TOPIC)] == [b"0", b"0", b"1", b"1", b"2", b"2"]
    assert publisher.pending_bytes == 0
    await publisher.stop()


@pytest.mark.stack
async def test_batches_of_one_round_share_a_request(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a real broker, when records for four partitions are sent at once, then one request carries them."""
    topic = f"penstock.task.{stack.new_name('queue')}.requested.v1"
    await stack.create_topics({topic: 4})
    publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(stack.bootstrap_servers))
    await publisher.start()
    for number in range(4):  # a new partition may refuse its first batch: its leader has just been chosen
        await publisher.send([record(b"0", topic, number)])
    batches: list[int] = []
    ask, asked = AIOKafkaClient.send, asyncio.Event()

    async def counted(self: AIOKafkaClient, node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, ProduceRequest):
            batches.append(sum(len(partitions) for _, partitions in request._topics))
            asked.set()
        return await ask(self, node_id, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", counted)

    await asyncio.gather(*(publisher.send([record(b"1", topic, number)]) for number in range(4)))
    assert batches == [4]

    asked.clear()
    first = publisher.send([record(b"2", topic, 0)])
    await asked.wait()
    later = [publisher.send([record(b"3", topic, number)]) for number in (1, 2, 3)]
    await asyncio.gather(first, *later)
    assert batches == [4, 1, 3]
    await publisher.stop()


@pytest.mark.stack
async def test_a_sender_that_breaks_is_replaced(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a real broker, when the sender meets something unknown, then another producer sends what was not."""
    topic = f"penstock.task.{stack.new_name('queue')}.requested.v1"
    await stack.create_topics({topic: 1})
    publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(stack.bootstrap_servers))
    await publisher.start()
    sent, broken = PromptSender._send_produce_req, [True]

    async def breaks_once(self: PromptSender, node_id: int, batches: Any) -> None:
        if broken:
            broken.clear()
            raise RuntimeError("unknown")
        await sent(self, node_id, batches)

    monkeypatch.setattr(PromptSender, "_send_produce_req", breaks_once)

    async with asyncio.timeout(20.0):
        await asyncio.gather(*(publisher.send([record(b"%d" % number, topic)]) for number in range(3)))

    assert not broken
    await publisher.stop()

"""Many records on their way through an in-flight consumer at a time: each as if it were alone."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar

import pytest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import TASK_COMPLETED, Service
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.attempts import Handler
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received
from penstock.runtime.kafka.runners import TURN_RECORDS
from penstock.testkit.world import WAIT_SECONDS, World, memory_world, outgoing, values, within

SEEN: ContextVar[bytes] = ContextVar("seen", default=b"nothing")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with memory_world() as made:
        await made.create({topic: 2 for name in (made.requested, made.urgent) for topic in (name, f"dlq.{name}")})
        yield made
        await made.end()


def answer(world: World, record: Received, value: bytes = b"") -> list[Outgoing]:
    """One output, which says what it answers."""
    return [outgoing(world.completed, value or b"out-" + (record.value or b""), partition=record.partition)]


async def finished(world: World, consumer: InFlightConsumer) -> None:
    """All that is there is handled and acknowledged."""
    async with asyncio.timeout(WAIT_SECONDS):
        while consumer.lag().get((f"group-{world.queue}", world.requested, 0), 1):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def drained(world: World, handler: Handler) -> None:
    """All that is there is handled, and the consumer has left."""
    stop = asyncio.Event()
    consumer = await world.in_flight(handler)
    running = world.run(consumer, stop)
    await finished(world, consumer)
    stop.set()
    await world.result(running)


async def test_a_finished_event_sends_its_outputs_again_without_running(world: World) -> None:
    """Given an event that was handled, when it is delivered again, then its outputs are sent again and nothing runs."""
    calls: list[int] = []

    async def handle(record: Received) -> Sequence[Outgoing]:
        calls.append(record.offset)
        return answer(world, record)

    await world.fill([b"a"])
    consumer = await world.in_flight(handle)
    world.run(consumer)
    await finished(world, consumer)
    await world.fill([b"a"])
    await finished(world, consumer)

    assert calls == [0]
    assert values(await world.read(world.completed, 2)) == [b"out-a", b"out-a"]


async def test_records_that_do_not_wait_are_answered_in_few_sends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given many records whose handler never waits, then far fewer sends than records carry their answers."""
    sends: list[int] = []
    send = Publisher.send

    def counted(self: Publisher, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        sends.append(len(records))
        return send(self, records)

    monkeypatch.setattr(Publisher, "send", counted)

    async def handle(record: Received) -> Sequence[Outgoing]:
        return answer(world, record)

    await world.fill([b"%d" % number for number in range(200)])
    await drained(world, handle)

    assert sum(sends) == 200
    assert len(sends) < 100


async def with_a_limit(world: World, handler: Handler) -> dict[bytes | None, dict[str, bytes]]:
    """What is on the topic of dead letters afterwards, with the headers, where large outputs are refused."""
    publisher = await world.publisher(record_bytes_max=4000)
    group, stop = f"group-{world.queue}", asyncio.Event()
    consumer = InFlightConsumer(Service.WORKER, [world.requested], group, handler, publisher, world.broker)
    running = world.run(consumer, stop)
    await finished(world, consumer)
    stop.set()
    await world.result(running)
    assert world.memory is not None
    found = world.memory.records(world.completed)
    assert len({record.value for record in found}) == len(found)
    return {record.value: dict(record.headers) for record in found}


async def test_a_refused_output_buries_its_own_record_only(world: World) -> None:
    """Given outputs that are sent together, when some are refused for good, then the other records are answered."""

    def too_large(size: int) -> Outgoing:
        return outgoing(TASK_COMPLETED.name, b"x" * size, partition=0)

    async def handle(record: Received) -> Sequence[Outgoing]:
        match record.value:
            case b"large":
                return [*answer(world, record), too_large(5000)]
            case b"larger":
                return [too_large(6000)]
            case _:
                return answer(world, record)

    await world.fill([b"a", b"large", b"b", b"larger", b"c"])
    found = await with_a_limit(world, handle)

    assert set(found) == {b"out-a", b"out-large", b"out-b", b"out-c", b"large", b"larger"}
    for name, size in ((b"large", b"100"), (b"larger", b"120")):  # and each says its own reason
        assert re.match(b"its outputs were refused: %b[0-9]{2} bytes" % size, found[name]["__dlq.errors.message"])


async def test_what_cannot_be_sent_at_all_buries_its_own_record_only(world: World) -> None:
    """Given outputs to a topic that is not ours and no outputs at all, then the other records are answered."""

    async def handle(record: Received) -> Sequence[Outgoing]:
        match record.value:
            case b"elsewhere":
                return [outgoing("penstock.run.finished.v1", b"", partition=0)]
            case b"nothing":
                return None  # type: ignore[return-value]  # that is the fault
            case _:
                return answer(world, record)

    await world.fill([b"a", b"elsewhere", b"b", b"nothing", b"c"])
    found = await with_a_limit(world, handle)

    assert set(found) == {b"out-a", b"out-b", b"out-c", b"elsewhere", b"nothing"}
    assert b"NotAllowed" in found[b"elsewhere"]["__dlq.errors.message"]


async def test_poison_among_others_is_no_obstacle(world: World) -> None:
    """Given a poison record between others, then they are answered, and it is a dead letter."""

    async def handle(record: Received) -> Sequence[Outgoing]:
        if record.value == b"bad":
            raise Poison("cannot be read")
        return answer(world, record)

    await world.fill([b"a", b"bad", b"b"])
    await drained(world, handle)

    assert sorted(values(await world.read(world.completed, 3))) == [b"bad", b"out-a", b"out-b"]  # type: ignore[type-var]  # no tombstones here


async def test_a_handler_that_waits_holds_up_nobody(world: World) -> None:
    """Given a record that waits between others, then those before and behind it are answered meanwhile."""
    go_on = asyncio.Event()

    async def handle(record: Received) -> Sequence[Outgoing]:
        if record.value == b"slow":
            await go_on.wait()
        return answer(world, record)

    await world.fill([b"a", b"b", b"slow"])
    stop = asyncio.Event()
    running = world.run(await world.in_flight(handle), stop)

    assert values(await world.read(world.completed, 2)) == [b"out-a", b"out-b"]
    await world.fill([b"c", b"d"])
    assert values(await world.read(world.completed, 4)) == [b"out-a", b"out-b", b"out-c", b"out-d"]
    go_on.set()
    assert len(await world.read(world.completed, 5)) == 5
    stop.set()
    await world.result(running)
    assert await world.committed(f"group-{world.queue}") == 5


async def test_all_that_wait_do_so_at_a_time(world: World) -> None:
    """Given handlers that all wait, then as many as are allowed have begun after a few rounds of the loop."""
    begun, rounds = 0, 0
    all_begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal begun
        begun += 1
        if begun == 1:
            asyncio.get_running_loop().call_soon(count)
        if begun == 64:
            all_begun.set()
        await go_on.wait()
        return []

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if not all_begun.is_set():
            asyncio.get_running_loop().call_soon(count)

    await world.fill([b"%d" % number for number in range(100)])
    world.run(await world.in_flight(handle, in_flight_max=64))
    await within(all_begun.wait())
    go_on.set()

    assert rounds < 10


async def test_nothing_of_one_record_is_left_for_the_next(world: World) -> None:
    """Given handlers that set a variable of their context and leave it, some waiting, then none finds another's."""
    found: list[bytes] = []

    async def handle(record: Received) -> Sequence[Outgoing]:
        found.append(SEEN.get())
        SEEN.set(record.value or b"")
        if (record.value or b"").startswith(b"slow"):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert SEEN.get() == record.value
        return []

    await world.fill([b"a", b"b", b"slow-1", b"c", b"slow-2", b"slow-3", b"d", b"slow-4", b"e", b"f"])
    await drained(world, handle)

    assert found == [b"nothing"] * 10


async def test_a_task_that_cancels_itself_takes_nobody_along(world: World) -> None:
    """Given handlers that cancel their task or raise a cancellation, then only those records stay unfinished."""

    cancelling: list[int] = []

    async def handle(record: Received) -> Sequence[Outgoing]:
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())
        if record.value == b"raises":
            raise asyncio.CancelledError
        if record.value == b"cancels":
            task.cancel()
            await asyncio.sleep(0)
        if record.value == b"leaves":
            task.cancel()
        return answer(world, record)

    await world.fill([b"a", b"raises", b"b", b"cancels", b"c", b"leaves", b"d"])
    stop = asyncio.Event()
    running = world.run(await world.in_flight(handle), stop)

    sent = await world.read(world.completed, 5)
    assert sorted(values(sent)) == [b"out-a", b"out-b", b"out-c", b"out-d", b"out-leaves"]  # type: ignore[type-var]  # no tombstones here
    assert cancelling == [0] * 7
    stop.set()
    await world.result(running)
    assert await world.committed(f"group-{world.queue}") == 1


async def test_a_long_run_of_records_lets_others_run(world: World) -> None:
    """Given far more records than one round may take, whose handler never waits, then the loop goes round meanwhile."""
    rounds, handled, done = 0, Counter[int](), asyncio.Event()

    async def others() -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            await asyncio.sleep(0)

    async def handle(record: Received) -> Sequence[Outgoing]:
        handled[rounds] += 1
        if record.value == b"last":
            done.set()
        return []

    await world.fill([*(b"%d" % number for number in range(20 * TURN_RECORDS)), b"last"])
    world.run(await world.in_flight(handle, in_flight_max=1000))
    await within(others())

    assert max(handled.values()) <= TURN_RECORDS
    assert handled.total() == 20 * TURN_RECORDS + 1


async def test_after_a_crowd_that_waited_one_at_a_time_goes_on(world: World) -> None:
    """Given many that waited together, when those behind them do not wait, then a round is still not theirs alone."""
    rounds, handled, done = 0, Counter[int](), asyncio.Event()
    crowd = asyncio.Event()
    begun = 0

    async def others() -> None:
        nonlocal rounds
        while not done.is_set():
            rounds += 1
            await asyncio.sleep(0)

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal begun
        if (record.value or b"").startswith(b"waits"):
            begun += 1
            if begun == 32:
                crowd.set()
            await crowd.wait()
            return []
        handled[rounds] += 1
        if record.value == b"last":
            done.set()
        return []

    fast = [b"%d" % number for number in range(20 * TURN_RECORDS)]
    await world.fill([*(b"waits-%d" % number for number in range(32)), *fast, b"last"])
    world.run(await world.in_flight(handle, in_flight_max=32))
    await within(others())

    assert max(handled.values()) <= TURN_RECORDS + 32


async def test_the_same_event_twice_in_one_run_is_handled_once(world: World) -> None:
    """Given one event twice in a row, when the first is answered and not acknowledged yet, then it is joined."""
    calls: list[bytes] = []

    async def handle(record: Received) -> Sequence[Outgoing]:
        calls.append(record.value or b"")
        return answer(world, record)

    await world.fill([b"a", b"a", b"b", b"a", b"b"])
    await drained(world, handle)

    assert sorted(calls) == [b"a", b"b"]
    assert sorted(values(await world.read(world.completed, 2))) == [b"out-a", b"out-b"]  # type: ignore[type-var]  # no tombstones here

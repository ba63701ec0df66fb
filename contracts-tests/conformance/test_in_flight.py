"""What the executors' consumer promises: nothing lost, nothing run twice in one life, no partition stalled."""

import asyncio
from collections.abc import Sequence

import pytest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.errors import DeadLetterFailed, NotAcknowledged, NotAllowed, Poison, Retryable
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.records import Received
from penstock.testkit.world import Crashable, World, outgoing, values, within


class Handler:
    """Notes what it is given; values named in `gates` wait for their gate."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen: list[bytes] = []
        self.finished: list[bytes] = []
        self.gates: dict[bytes, asyncio.Event] = {}
        self._changed = asyncio.Event()

    async def __call__(self, record: Received) -> Sequence[Outgoing]:
        value = record.value or b""
        self.seen.append(value)
        self._tell()
        if value in self.gates:
            await self.gates[value].wait()
        self.finished.append(value)
        self._tell()
        return [outgoing(self._world.completed, b"out-" + value, partition=record.partition)]

    async def until_seen(self, count: int) -> None:
        """Wait until so many calls have begun."""
        await self._until(lambda: len(self.seen) >= count)

    async def until_finished(self, count: int) -> None:
        """Wait until so many calls have ended."""
        await self._until(lambda: len(self.finished) >= count)

    async def _until(self, reached) -> None:  # type: ignore[no-untyped-def]  # a test's helper
        async def waiting() -> None:
            while not reached():
                self._changed.clear()
                await self._changed.wait()

        await within(waiting())

    def _tell(self) -> None:
        self._changed.set()


async def test_outputs_are_acknowledged_before_the_offset_is_done(world: World) -> None:
    """Given records, when they are handled and the consumer stops, then outputs are there and all is committed."""
    handler = Handler(world)
    await world.fill([b"a", b"b", b"c"])
    consumer = await world.in_flight(handler, group="g-done" + world.queue)
    stop = asyncio.Event()
    running = world.run(consumer, stop)

    assert sorted(values(await world.read(world.completed, 3))) == [b"out-a", b"out-b", b"out-c"]  # type: ignore[type-var]  # no tombstones here
    stop.set()
    await world.result(running)

    assert await world.committed("g-done" + world.queue) == 3


async def test_the_frontier_is_the_lowest_unfinished(world: World) -> None:
    """Given the second of four unfinished when the drain ends, when another member comes, then it begins there."""
    first, second = Handler(world), Handler(world)
    first.gates[b"b"] = asyncio.Event()
    await world.fill([b"a", b"b", b"c", b"d"])
    stop = asyncio.Event()
    group = "g-frontier" + world.queue
    running = world.run(await world.in_flight(first, group=group, drain_seconds=0.2), stop)
    await first.until_finished(3)
    stop.set()
    await world.result(running)
    assert await world.committed(group) == 1

    world.run(await world.in_flight(second, group=group))
    await second.until_finished(3)

    assert second.seen == [b"b", b"c", b"d"]


async def test_stopping_waits_for_what_is_in_flight(world: World) -> None:
    """Given a handler at work, when the consumer is stopped, then it ends after the handler and commits its record."""
    handler = Handler(world)
    handler.gates[b"a"] = asyncio.Event()
    await world.fill([b"a"])
    stop, group = asyncio.Event(), "g-stop" + world.queue
    running = world.run(await world.in_flight(handler, group=group), stop)
    await handler.until_seen(1)

    stop.set()
    asyncio.get_running_loop().call_later(0.2, handler.gates[b"a"].set)
    await world.result(running)

    assert handler.finished == [b"a"]
    assert await world.committed(group) == 1


async def test_holes_in_the_offsets_are_no_obstacle(world: World) -> None:
    """Given offsets that are not contiguous, when all records are handled, then the commit is behind the last."""
    if world.memory is None:
        pytest.skip("a real hole needs a transaction marker or compaction; the frontier's unit test has them")
    handler = Handler(world)
    await world.fill([b"a", b"b", b"c", b"d"])
    world.memory.drop(world.requested, 0, 1)
    stop = asyncio.Event()
    group = "g-holes" + world.queue
    running = world.run(await world.in_flight(handler, group=group), stop)
    await handler.until_finished(3)
    stop.set()
    await world.result(running)

    assert handler.seen == [b"a", b"c", b"d"]
    assert await world.committed(group) == 4


async def test_poison_is_buried_byte_for_byte_and_the_partition_moves_on(world: World) -> None:
    """Given a poison record with a null key and headers that are no text, then its dead letter holds all of it."""

    async def handle(record: Received) -> Sequence[Outgoing]:
        if record.value == b"\xff\x00":
            raise Poison("cannot be read")
        return [outgoing(world.completed, b"fine", partition=1)]

    headers = [("ce_id", b"\xfe\xff"), ("other", b"\x80")]
    await world.write(world.requested, None, b"\xff\x00", 0, headers)
    await world.fill([b"next"])
    world.run(await world.in_flight(handle, group="g-poison" + world.queue))

    got = {record.value: record for record in await world.read(world.completed, 2)}

    letter = got[b"\xff\x00"]
    assert letter.key is None
    assert list(letter.headers)[:2] == headers
    said = dict(list(letter.headers)[2:])
    assert said["__dlq.errors.topic"] == world.requested.encode()
    assert (said["__dlq.errors.partition"], said["__dlq.errors.offset"]) == (b"0", b"0")
    assert said["__dlq.errors.message"] == b"cannot be read"
    assert b"fine" in got


async def test_a_handler_that_always_fails_is_tried_three_times(world: World) -> None:
    """Given a handler that raises, when it has done so three times, then the record is a dead letter."""
    calls = 0

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal calls
        calls += 1
        raise ValueError("no luck")

    await world.fill([b"a"])
    world.run(await world.in_flight(handle, group="g-three" + world.queue))

    (letter,) = await world.read(world.completed, 1)

    assert calls == 3
    said = dict(letter.headers)
    assert said["__dlq.errors.delivery.count"] == b"3"
    assert said["__dlq.errors.exception"] == b"builtins.ValueError"


async def test_retryable_is_tried_again_in_place(world: World) -> None:
    """Given a handler that asks for more time twice, when it succeeds, then its output is there and no dead letter."""
    calls = 0

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise Retryable("busy", after_ms=1)
        return [outgoing(world.completed, b"done", partition=0)]

    await world.fill([b"a"])
    world.run(await world.in_flight(handle, group="g-retry" + world.queue))

    assert values(await world.read(world.completed, 1)) == [b"done"]


async def test_a_dead_letter_that_cannot_be_written_ends_the_consumer(world: World) -> None:
    """Given poison and a publisher that refuses its dead letter, then run raises and nothing is committed."""

    async def handle(record: Received) -> Sequence[Outgoing]:
        raise Poison("bad")

    def refuse(records: Sequence[Outgoing]) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.set_exception(NotAcknowledged(records, "refused", permanent=True))
        return answer

    await world.fill([b"a"])
    publisher = await world.publisher()
    publisher.send = refuse  # type: ignore[method-assign]  # that is the fault
    group = "g-stuck" + world.queue
    consumer = InFlightConsumer(Service.WORKER, [world.requested], group, handle, publisher, world.broker)
    running = world.run(consumer)

    with pytest.raises(DeadLetterFailed):
        await world.result(running)

    assert await world.committed(group) in (None, 0)


async def test_an_output_that_can_never_be_published_makes_a_dead_letter(world: World) -> None:
    """Given an output over the limit, when it is refused for good, then the request is buried, not run for ever."""
    calls = 0

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal calls
        calls += 1
        return [outgoing("penstock.task.completed.v1", b"x" * 5000, partition=0)]

    await world.fill([b"a"])
    small = await world.publisher(record_bytes_max=2000)
    group = "g-output" + world.queue
    world.run(InFlightConsumer(Service.WORKER, [world.requested], group, handle, small, world.broker))

    (letter,) = await world.read(world.completed, 1)

    assert letter.value == b"a"
    assert calls == 1


async def test_a_crash_repeats_what_was_in_flight_and_loses_nothing(world: World) -> None:
    """Given a member that dies with one record in flight, when another comes, then every record is handled."""
    first, second = Handler(world), Handler(world)
    first.gates[b"b"] = asyncio.Event()
    await world.fill([b"a", b"b", b"c"])
    group = "g-crash" + world.queue
    crashable = Crashable(world.broker)
    crashed = world.run(await world.in_flight(first, group=group, broker=crashable, drain_seconds=0.1))
    world.awaited.add(crashed)
    await first.until_finished(2)

    await crashable.crash()
    world.run(await world.in_flight(second, group=group))

    await second.until_finished(2)
    assert {b"b", b"c"} <= set(second.seen)
    assert set(first.finished) | set(second.finished) == {b"a", b"b", b"c"}


async def test_a_rebalance_drains_before_it_hands_over(world: World) -> None:
    """Given a handler at work, when a second member joins, then it is finished first and nothing runs twice."""
    handler = Handler(world)
    handler.gates[b"slow"] = asyncio.Event()
    await world.fill([b"slow"], partition=0)
    await world.fill([b"other"], partition=1)
    group = "g-drain" + world.queue
    world.run(await world.in_flight(handler, group=group))
    await handler.until_seen(2)

    world.run(await world.in_flight(handler, group=group))
    handler.gates[b"slow"].set()
    await world.fill([b"later-0"], partition=0)
    await world.fill([b"later-1"], partition=1)

    await handler.until_finished(4)
    assert sorted(handler.seen) == [b"later-0", b"later-1", b"other", b"slow"]


async def test_one_leaves_and_the_other_takes_over(world: World) -> None:
    """Given two members, when one stops, then the other gets its partitions."""
    one, other = Handler(world), Handler(world)
    group = "g-leave" + world.queue
    stop = asyncio.Event()
    leaving = world.run(await world.in_flight(one, group=group), stop)
    world.run(await world.in_flight(other, group=group))
    await world.fill([b"a"], partition=0)
    await world.fill([b"b"], partition=1)
    while len(one.finished) + len(other.finished) < 2:
        done, _ = await asyncio.wait(
            [
                asyncio.ensure_future(one.until_finished(len(one.finished) + 1)),
                asyncio.ensure_future(other.until_finished(len(other.finished) + 1)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert done

    stop.set()
    await world.result(leaving)
    before = len(other.finished)
    await world.fill([b"c"], partition=0)
    await world.fill([b"d"], partition=1)

    await other.until_finished(before + 2)


async def test_a_redelivery_of_a_finished_event_is_not_run_again(world: World) -> None:
    """Given events that were handled, when they come again, then their outputs are known and nothing runs."""
    handler = Handler(world)
    await world.fill([b"a", b"b"])
    world.run(await world.in_flight(handler, group="g-again" + world.queue))
    await world.read(world.completed, 2)

    await world.fill([b"a", b"b", b"a", b"last"])
    await handler.until_finished(3)

    assert sorted(handler.seen) == [b"a", b"b", b"last"]


async def test_an_event_in_flight_is_not_run_a_second_time(world: World) -> None:
    """Given an event at work, when it is delivered again, then the second delivery waits for the first."""
    handler = Handler(world)
    handler.gates[b"a"] = asyncio.Event()
    await world.fill([b"a", b"a", b"b"])
    world.run(await world.in_flight(handler, group="g-twice" + world.queue))
    await handler.until_finished(1)

    handler.gates[b"a"].set()

    assert sorted(map(bytes, values(await world.read(world.completed, 2)))) == [b"out-a", b"out-b"]  # type: ignore[arg-type]  # none is empty
    assert sorted(handler.seen) == [b"a", b"b"]


async def test_a_handler_may_take_longer_than_the_poll_limit(world: World) -> None:
    """Given a poll limit of half a second, when a handler holds the only slot for longer, then it runs once."""
    handler = Handler(world)
    handler.gates[b"slow"] = asyncio.Event()
    await world.fill([b"slow", b"next", b"last"])
    group = "g-long" + world.queue
    world.run(await world.in_flight(handler, group=group, in_flight_max=1, poll_seconds_max=0.5))
    await handler.until_seen(1)

    asyncio.get_running_loop().call_later(2.5, handler.gates[b"slow"].set)
    await handler.until_finished(3)

    assert handler.seen == [b"slow", b"next", b"last"]


async def test_urgent_topics_come_first(world: World) -> None:
    """Given a full slot and both topics waiting, when it frees, then the urgent topic's record runs next."""
    handler = Handler(world)
    handler.gates[b"blocker"] = asyncio.Event()
    await world.fill([b"blocker", b"batch-1", b"batch-2"])
    group = "g-urgent" + world.queue
    topics = [world.urgent, world.requested]
    world.run(await world.in_flight(handler, group=group, topics=topics, in_flight_max=1))
    await handler.until_seen(1)
    await world.fill([b"urgent-1", b"urgent-2"], topic=world.urgent)
    await world.fill([b"batch-%d" % number for number in range(3, 30)])

    handler.gates[b"blocker"].set()
    await handler.until_finished(32)

    # One batch record was taken before, one may be while the urgent ones are fetched.
    assert handler.seen.index(b"urgent-2") < handler.seen.index(b"batch-29")


async def test_never_more_in_flight_than_allowed(world: World) -> None:
    """Given many records, when they are handled, then never more than the bound at once."""
    running = highest = 0
    done = asyncio.Event()
    count = 0

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal running, highest, count
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0)
        running -= 1
        count += 1
        if count == 40:
            done.set()
        return []

    await world.fill([b"%d" % number for number in range(40)])
    world.run(await world.in_flight(handle, group="g-bound" + world.queue, in_flight_max=3))
    await within(done.wait())

    assert 1 < highest <= 3


async def test_a_topic_that_is_not_the_services_is_refused(world: World) -> None:
    """Given a worker, when it wants to consume the orchestrator's topic, then it is told at once."""
    with pytest.raises(NotAllowed):
        await world.in_flight(Handler(world), topics=["penstock.run.requested.v1"])


async def test_lag_is_what_is_not_finished(world: World) -> None:
    """Given four records of which the second is stuck, then the lag counts from the stuck one."""
    handler = Handler(world)
    handler.gates[b"b"] = asyncio.Event()
    await world.fill([b"a", b"b", b"c"])
    consumer = await world.in_flight(handler, group="g-lag" + world.queue)
    world.run(consumer)
    await handler.until_finished(2)
    await world.fill([b"d"])
    await world.read(world.completed, 3)  # so a's output was acknowledged

    assert consumer.lag()["g-lag" + world.queue, world.requested, 0] == 3
    handler.gates[b"b"].set()

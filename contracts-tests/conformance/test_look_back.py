"""What the executors' consumer promises after a crash: an answer that the log holds is not worked out again."""

import asyncio
from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.lookback import LookBack, event_id
from penstock.runtime.kafka.records import Received
from penstock.testkit.world import Crashable, World, outgoing, values, within


class Handler:
    """Notes what it is given and answers, naming the cause; `b` waits for ever where it is told to."""

    def __init__(self, world: World, *, stuck_at: bytes | None = None) -> None:
        self._world = world
        self._stuck_at = stuck_at
        self._seen = asyncio.Condition()
        self.seen: list[bytes] = []

    async def __call__(self, record: Received) -> Sequence[Outgoing]:
        value = record.value or b""
        async with self._seen:
            self.seen.append(value)
            self._seen.notify_all()
        if value == self._stuck_at:
            await asyncio.Event().wait()
        answer = outgoing(self._world.completed, b"out-" + value, partition=record.partition)
        answer.headers.append(("ce_causationid", event_id(record)))
        return [answer]

    async def until_seen(self, value: bytes) -> None:
        """Wait until it was given that."""
        async with self._seen:
            await within(self._seen.wait_for(lambda: value in self.seen))


async def test_what_was_answered_before_a_crash_is_not_run_again(world: World) -> None:
    """Given answers of a member that died before it could commit, when another comes, then only the rest is run."""
    first, second = Handler(world, stuck_at=b"b"), Handler(world)
    await world.fill([b"a", b"b", b"c", b"d"])
    group = "g-answered" + world.queue
    crashable = Crashable(world.broker)
    crashed = world.run(await world.in_flight(first, group=group, broker=crashable, drain_seconds=0.1))
    world.awaited.add(crashed)
    await world.read(world.completed, 3)

    await crashable.crash()
    look_back = LookBack(Service.WORKER, world.broker, [world.completed], lambda _request, _answer: [])
    world.run(await world.in_flight(second, group=group, look_back=look_back))
    await world.fill([b"later"])
    await second.until_seen(b"later")

    assert second.seen == [b"b", b"later"]


async def test_what_a_crash_left_out_beside_an_answer_is_sent_later(world: World) -> None:
    """Given one answer that stands alone and one that is whole, when they come again, then one record is added."""
    beside = f"dlq.{world.urgent}"
    await world.fill([b"alone", b"whole", b"unanswered"])
    for topic, causes in ((world.completed, (b"alone", b"whole")), (beside, (b"whole",))):
        for cause in causes:
            await world.write(topic, b"k", b"out-" + cause, 0, [("ce_causationid", cause)])
    handler = Handler(world)

    def rest(request: Received, answer: Received) -> Sequence[Outgoing]:
        return [outgoing(beside, b"beside " + (request.value or b"") + b" " + (answer.value or b""))]

    look_back = LookBack(Service.WORKER, world.broker, [world.completed, beside], rest)
    world.run(await world.in_flight(handler, group="g-beside" + world.queue, look_back=look_back))
    await handler.until_seen(b"unanswered")

    assert sorted(each or b"" for each in values(await world.read(beside, 2))) == [
        b"beside alone out-alone",
        b"out-whole",
    ]
    assert handler.seen == [b"unanswered"]


async def test_nothing_to_look_back_on_is_no_obstacle(world: World) -> None:
    """Given a backlog and empty topics of answers, when a member comes, then it begins."""
    await world.fill([b"a"])
    handler = Handler(world)

    look_back = LookBack(Service.WORKER, world.broker, [world.completed], lambda _request, _answer: [])
    world.run(await world.in_flight(handler, group="g-first" + world.queue, look_back=look_back))

    await handler.until_seen(b"a")

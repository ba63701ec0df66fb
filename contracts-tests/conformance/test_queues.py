"""What the executors' consumer promises to whoever chooses its next record."""

import asyncio
from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.runtime.kafka.records import Received
from penstock.runtime.kafka.waiting import UrgentFirst, Waiting
from penstock.testkit.world import World, within


class Gated(UrgentFirst):
    """Keeps everything back until it is open, asks for three at a time, and notes what it is told."""

    def __init__(self) -> None:
        super().__init__(1)
        self.open = False
        self.freed_values: list[bytes | None] = []
        self.offered = 0
        self.full = asyncio.Event()
        self.cleared = False

    def offer(self, topic: int, lane: object, record: Received) -> None:
        super().offer(topic, lane, record)  # type: ignore[arg-type]  # only handed on
        self.offered += 1
        if len(self) == 3:
            self.full.set()

    def take(self) -> Waiting | None:
        taken = super().take() if self.open else None
        if len(self) == 0:
            self._hungry(0)
        return taken

    def room(self, topic: int) -> int:
        return 3 - len(self) - topic  # the only topic is number 0

    def freed(self, record: Received) -> None:
        self.freed_values.append(record.value)

    def clear(self) -> None:
        super().clear()
        self.cleared = True


class Count:
    """A handler that counts."""

    def __init__(self, expected: int) -> None:
        self.seen: list[bytes | None] = []
        self.done = asyncio.Event()
        self._expected = expected

    async def __call__(self, record: Received) -> Sequence[Outgoing]:
        self.seen.append(record.value)
        if len(self.seen) == self._expected:
            self.done.set()
        return []


async def test_a_queue_that_opens_wakes_the_consumer(world: World) -> None:
    """Given a queue that keeps all back, when it opens and says so, then all is handled, fetched as it asked."""
    queue, handler = Gated(), Count(7)
    await world.fill([b"%d" % number for number in range(7)])
    consumer = await world.in_flight(handler, group="g-gate" + world.queue, queue=queue)
    stop = asyncio.Event()
    running = world.run(consumer, stop)
    await within(queue.full.wait())
    assert (handler.seen, queue.offered) == ([], 3)

    queue.open = True
    consumer.wake()
    await within(handler.done.wait())
    stop.set()
    await world.result(running)

    assert handler.seen == [b"%d" % number for number in range(7)]


async def test_what_was_taken_is_freed_once_though_it_never_ran(world: World) -> None:
    """Given one event twice, when its second delivery is answered from memory, then both are freed, each once."""
    queue, handler = Gated(), Count(2)
    queue.open = True
    await world.fill([b"a", b"a", b"b"])
    stop = asyncio.Event()
    running = world.run(await world.in_flight(handler, group="g-freed" + world.queue, queue=queue), stop)
    await within(handler.done.wait())
    stop.set()
    await world.result(running)

    assert handler.seen == [b"a", b"b"]
    assert sorted(value or b"" for value in queue.freed_values) == [b"a", b"a", b"b"]


async def test_what_waits_is_forgotten_when_the_partitions_go(world: World) -> None:
    """Given records kept back, when the consumer leaves, then none of them ran and the next member begins with them."""
    queue, handler = Gated(), Count(3)
    group = "g-cleared" + world.queue
    await world.fill([b"a", b"b", b"c"])
    stop = asyncio.Event()
    running = world.run(await world.in_flight(handler, group=group, queue=queue), stop)
    await within(queue.full.wait())
    stop.set()
    await world.result(running)
    assert (len(queue), queue.cleared, handler.seen) == (0, True, [])

    world.run(await world.in_flight(handler, group=group))
    await within(handler.done.wait())

    assert handler.seen == [b"a", b"b", b"c"]

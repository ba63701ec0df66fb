"""What the orchestrator's consumer promises: the owner's offsets rule, batches in order, prompt wake-ups."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from penstock.runtime.clock import now_ms
from penstock.runtime.errors import Fenced, Unavailable
from penstock.runtime.kafka.records import Received
from penstock.testkit.world import World, within


class Owner:
    """Keeps offsets as Postgres would; `raises` are thrown by the next calls of process, one each."""

    def __init__(self, offsets: dict[tuple[str, int], int] | None = None) -> None:
        self.offsets = {} if offsets is None else offsets
        self.calls: list[str] = []
        self.batches: list[list[bytes | None]] = []
        self.processed: list[tuple[int, int, bytes | None]] = []
        self.raises: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.wake_ms: int | None = None
        self.entered = asyncio.Event()
        self._changed = asyncio.Event()

    async def take_over(self, partitions: frozenset[int]) -> Mapping[tuple[str, int], int]:
        self._note(f"take_over {sorted(partitions)}")
        return {key: offset for key, offset in self.offsets.items() if key[1] in partitions}

    async def release(self, partitions: frozenset[int]) -> None:
        self._note(f"release {sorted(partitions)}")

    async def process(self, records: Sequence[Received]) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.raises:
            error = self.raises.pop(0)
            self._note(type(error).__name__)
            raise error
        self.batches.append([record.value for record in records])
        for record in records:
            self.processed.append((record.partition, record.offset, record.value))
            self.offsets[record.topic, record.partition] = record.offset + 1
        self.wake_ms = None
        self._note("process" if records else "alarm")

    def next_wake_ms(self) -> int | None:
        return self.wake_ms

    async def until_processed(self, count: int) -> None:
        """Wait until so many records were processed."""
        await self._until(lambda: len(self.processed) >= count)

    async def until_called(self, name: str, times: int = 1) -> None:
        """Wait until this call was made so often."""
        await self._until(lambda: sum(call.startswith(name) for call in self.calls) >= times)

    def values(self) -> list[bytes | None]:
        """What was processed, in order."""
        return [value for _, _, value in self.processed]

    async def _until(self, reached) -> None:  # type: ignore[no-untyped-def]  # a test's helper
        async def waiting() -> None:
            while not reached():
                self._changed.clear()
                await self._changed.wait()

        await within(waiting())

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._changed.set()


async def fill(world: World, names: Sequence[bytes], partition: int = 0) -> None:
    """Write records in order."""
    for name in names:
        await world.write(world.requested, None, name, partition)


async def test_it_goes_on_where_the_owner_says(world: World) -> None:
    """Given an owner that knows an offset of one partition, then that one goes on there, the other begins."""
    await fill(world, [b"a0", b"a1", b"a2"], partition=0)
    await fill(world, [b"b0", b"b1"], partition=1)
    owner = Owner({(world.requested, 0): 2})

    world.run(world.owned(owner))
    await owner.until_processed(3)

    assert sorted(map(str, owner.values())) == ["b'a2'", "b'b0'", "b'b1'"]
    assert owner.calls[:2] == ["take_over [0, 1]", "alarm"]


async def test_kafkas_own_commits_do_not_rule(world: World) -> None:
    """Given a first life that committed to Kafka, when the owner's offsets are older, then the owner's hold."""
    await fill(world, [b"a", b"b", b"c"])
    stop = asyncio.Event()
    first = Owner()
    running = world.run(world.owned(first), stop)
    await first.until_processed(3)
    stop.set()
    await world.result(running)

    second = Owner({(world.requested, 0): 1})
    world.run(world.owned(second))
    await second.until_processed(2)

    assert second.values() == [b"b", b"c"]


async def test_what_is_absent_begins_at_the_earliest(world: World) -> None:
    """Given a first life that committed to Kafka, when the owner knows nothing, then all comes again."""
    await fill(world, [b"a", b"b"])
    stop = asyncio.Event()
    first = Owner()
    running = world.run(world.owned(first), stop)
    await first.until_processed(2)
    stop.set()
    await world.result(running)

    second = Owner()
    world.run(world.owned(second))
    await second.until_processed(2)

    assert second.values() == [b"a", b"b"]


async def test_order_and_batches(world: World) -> None:
    """Given many records, when they are processed, then in offset order and never more than the maximum at once."""
    await fill(world, [b"%d" % number for number in range(50)], partition=0)
    await fill(world, [b"%d" % number for number in range(50)], partition=1)
    owner = Owner()

    world.run(world.owned(owner, records_max=20))
    await owner.until_processed(100)

    for partition in (0, 1):
        assert [offset for at, offset, _ in owner.processed if at == partition] == list(range(50))
    assert max(map(len, owner.batches)) <= 20


async def test_wake_calls_the_owner_promptly(world: World) -> None:
    """Given nothing to read, when somebody wakes the consumer, then process is called with no records."""
    owner = Owner()
    consumer = world.owned(owner)
    world.run(consumer)
    await owner.until_called("alarm")

    consumer.wake()
    await owner.until_called("alarm", 2)
    await fill(world, [b"a"])
    await owner.until_processed(1)

    assert owner.batches == [[], [], [b"a"]]


async def test_an_alarm_that_is_due_calls_the_owner(world: World) -> None:
    """Given an alarm in the near future, when it is due, then process is called although nothing arrived."""
    owner = Owner()
    consumer = world.owned(owner)
    world.run(consumer)
    await owner.until_called("alarm")

    due_ms = now_ms() + 50
    owner.wake_ms = due_ms
    consumer.wake()
    await owner.until_called("alarm", 2)
    owner.wake_ms = due_ms = now_ms() + 50
    await fill(world, [b"a"])
    await owner.until_processed(1)
    owner.wake_ms = due_ms = now_ms() + 50
    await fill(world, [b"b"])
    await owner.until_called("alarm", 2)

    assert now_ms() >= due_ms - 50


async def test_no_record_is_lost_to_wake_ups(world: World) -> None:
    """Given a consumer that is woken all the time, when records arrive, then each comes once and in order."""
    owner = Owner()
    consumer = world.owned(owner)
    world.run(consumer)
    for number in range(60):
        consumer.wake()
        await fill(world, [b"%d" % number])
        consumer.wake()

    await owner.until_processed(60)

    assert owner.values() == [b"%d" % number for number in range(60)]


async def test_unavailable_gets_the_same_records_again(world: World) -> None:
    """Given a store that is away twice, when it is back, then the batch is processed once, complete."""
    await fill(world, [b"a", b"b"])
    owner = Owner()
    owner.raises = [Unavailable("away"), Unavailable("away")]

    world.run(world.owned(owner))
    await owner.until_processed(2)

    assert owner.values() == [b"a", b"b"]
    assert owner.calls.count("Unavailable") == 2


async def test_fenced_forgets_and_takes_over_again(world: World) -> None:
    """Given a batch that somebody else has done, when process says so, then the owner's offsets are asked again."""
    owner = Owner()
    world.run(world.owned(owner))
    await owner.until_called("alarm")

    owner.raises = [Fenced("moved on")]
    owner.offsets[world.requested, 0] = 2
    await fill(world, [b"a", b"b", b"c"])
    await owner.until_processed(1)

    assert owner.values() == [b"c"]
    at = owner.calls.index("Fenced")
    assert owner.calls[at : at + 3] == ["Fenced", "release [0, 1]", "take_over [0, 1]"]


async def test_anything_else_ends_the_consumer(world: World) -> None:
    """Given an owner with a bug, when process raises, then run raises it and the partitions are released."""
    owner = Owner()
    owner.raises = [ZeroDivisionError()]
    await fill(world, [b"a"])

    with pytest.raises(ZeroDivisionError):
        await world.result(world.run(world.owned(owner)))

    assert owner.calls[-1] == "release [0, 1]"


async def test_a_revoke_waits_for_the_running_batch(world: World) -> None:
    """Given a batch at work, when another instance joins, then it takes over only after the batch and the release."""
    offsets: dict[tuple[str, int], int] = {}
    first, second = Owner(offsets), Owner(offsets)
    world.run(world.owned(first))
    await first.until_called("alarm")
    first.entered.clear()
    first.gate.clear()
    await fill(world, [b"a"], partition=0)
    await fill(world, [b"b"], partition=1)
    await within(first.entered.wait())

    world.run(world.owned(second))
    asyncio.get_running_loop().call_later(0.3, first.gate.set)
    await second.until_called("take_over")
    await first.until_called("take_over", 2)
    await fill(world, [b"c"], partition=0)
    await fill(world, [b"d"], partition=1)
    while len(first.processed) + len(second.processed) < 4:
        waiting = {asyncio.ensure_future(owner.until_processed(len(owner.processed) + 1)) for owner in (first, second)}
        _, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    assert sorted(map(bytes, [*first.values(), *second.values()])) == [b"a", b"b", b"c", b"d"]  # type: ignore[arg-type]  # none is empty
    assert first.calls.index("release [0, 1]") > first.calls.index("process")


async def test_one_leaves_and_the_other_goes_on(world: World) -> None:
    """Given two instances, when one stops, then the other takes its partitions over where it was."""
    offsets: dict[tuple[str, int], int] = {}
    first, second = Owner(offsets), Owner(offsets)
    stop = asyncio.Event()
    leaving = world.run(world.owned(first), stop)
    await first.until_called("take_over [0, 1]")
    world.run(world.owned(second))
    await second.until_called("take_over")

    stop.set()
    await world.result(leaving)
    await second.until_called("take_over [0, 1]")
    await fill(world, [b"a"], partition=0)
    await fill(world, [b"b"], partition=1)
    await second.until_processed(2)

    assert first.values() == []


async def test_lag_and_monitoring_commits(world: World) -> None:
    """Given processed records, then the lag is none and stopping leaves the positions in Kafka."""
    await fill(world, [b"a", b"b"])
    owner = Owner()
    consumer = world.owned(owner)
    stop = asyncio.Event()
    running = world.run(consumer, stop)
    await owner.until_processed(2)
    assert consumer.lag()[f"owner-{world.queue}", world.requested, 0] == 0
    stop.set()

    await world.result(running)

    assert owner.calls[-1] == "release [0, 1]"
    assert consumer.lag() == {}

"""What one instance takes, in which order and how far ahead: its consumer and queue on the in-memory log."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from penstock.contracts.messages import InferenceCompleted, InferenceRequested, Lane
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_REQUESTED, USAGE_RECORDED, Service
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.work import read
from penstock.testkit.log import MemoryLog
from penstock.testkit.world import within
from services.inference import tickets
from services.inference.core import lanes
from services.inference.engines.protocol import EngineLoad, Generation, OnDelta
from services.inference.gate import FETCHED_MIN
from services.inference.station import Station, Stations
from services.inference.tests.scripted import AT_MS, ScriptedEngine, a_caller, a_request, a_station, says
from services.inference.tickets import Reader
from services.inference.waiting import EngineQueue

POOL = "small"


class HeldEngine(ScriptedEngine):
    """Each call ends when the test says so. `kv_tokens_max` is its cache."""

    def __init__(self, kv_tokens_max: int | None = None) -> None:
        super().__init__()
        self.running: list[tuple[InferenceRequested, asyncio.Event]] = []
        self._kv_tokens_max = kv_tokens_max
        self._moved = asyncio.Event()

    def load(self) -> EngineLoad:
        return EngineLoad(running=len(self.running), kv_tokens_max=self._kv_tokens_max)

    async def generate(
        self,
        request: InferenceRequested,
        timeout_seconds: float,  # noqa: ARG002 - as engines have it
        on_delta: OnDelta | None = None,  # noqa: ARG002 - as engines have it
    ) -> Generation:
        self.calls.append(request)
        ended = asyncio.Event()
        self.running.append((request, ended))
        self.inside_max = max(self.inside_max, len(self.running))
        self._moved.set()
        try:
            await ended.wait()
        finally:
            self.running = [each for each in self.running if each[1] is not ended]
        return says("hello")

    async def until_called(self, count: int) -> None:
        async def waiting() -> None:
            while len(self.calls) < count:
                self._moved.clear()
                await self._moved.wait()

        await within(waiting())

    def end_first(self) -> None:
        self.running.pop(0)[1].set()

    @property
    def inside_now(self) -> list[UUID]:
        return [request.request_id for request, _ in self.running]

    async def end_all(self, count: int) -> None:
        """Ends calls as they come until there were `count`."""
        while len(self.calls) < count or self.running:
            if self.running:
                self.end_first()
            else:
                await self.until_called(len(self.calls) + 1)


@dataclass
class Instance:
    """An instance that consumes, and the log that it consumes from."""

    engine: HeldEngine
    station: Station
    queue: EngineQueue
    log: MemoryLog
    cancellations: Cancellations
    _number: int = field(default=0)

    def ask(self, lane: Lane, *, partition: int = 0, **changes: Any) -> InferenceRequested:
        self._number += 1
        request = a_request(self._number, priority=lane, **changes)
        value = request.to_json()
        headers = [("ce_id", b"%d" % self._number), ("ce_source", b"test")]
        topic = INFERENCE_REQUESTED.named(pool=POOL, lane=lane)
        self.log.append(topic, key=b"k", value=value, headers=headers, partition=partition)
        return request

    async def until(self, reached: Callable[[], bool]) -> None:
        async def waiting() -> None:
            while not reached():  # noqa: ASYNC110 - whatever it is about, the loop is busy until then
                await asyncio.sleep(0)

        await within(waiting())


@asynccontextmanager
async def an_instance(engine: HeldEngine, *, concurrency: int) -> AsyncIterator[Instance]:
    topics = lanes.topics(POOL)
    log = MemoryLog({**dict.fromkeys(topics, 2), INFERENCE_COMPLETED.name: 4, USAGE_RECORDED.name: 1})
    station = a_station(engine, concurrency=concurrency)
    stations = Stations([station])
    cancellations, clock = Cancellations(), asyncio.get_running_loop().time
    queue = EngineQueue(stations, Reader(stations, POOL, 4), cancellations, lambda: AT_MS, clock)
    publisher = Publisher(Service.INFERENCE, log)
    await publisher.start()
    handle = a_caller(station, cancellations=cancellations).handle
    consumer = InFlightConsumer(
        Service.INFERENCE, topics, "g", handle, publisher, log, in_flight_max=10_000, queue=queue, drain_seconds=0.1
    )
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    try:
        yield Instance(engine, station, queue, log, cancellations)
    finally:
        stop.set()
        await within(running)
        await publisher.stop()


async def test_no_more_calls_are_in_the_engine_than_it_has_places() -> None:
    async with an_instance(HeldEngine(), concurrency=2) as instance:
        for _ in range(5):
            instance.ask(Lane.STANDARD)
        await instance.engine.until_called(2)
        await instance.engine.end_all(5)
        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 5)

        assert instance.engine.inside_max == 2
        assert instance.station.gate.taken == 0


async def test_an_urgent_request_behind_ten_thousand_takes_the_next_free_place() -> None:
    """Given 10,000 batch requests before a full engine, when an interactive one comes, then the next place is its."""
    async with an_instance(HeldEngine(), concurrency=4) as instance:
        for number in range(10_000):
            instance.ask(Lane.BATCH, partition=number % 2)
        await instance.engine.until_called(4)
        for _ in range(20):
            instance.engine.end_first()
            await instance.engine.until_called(len(instance.engine.calls) + 1)
        before = len(instance.engine.calls)
        urgent = instance.ask(Lane.INTERACTIVE)
        await instance.until(lambda: instance.station.gate.schedule.count(Lane.INTERACTIVE) == 1)

        instance.engine.end_first()
        await instance.engine.until_called(before + 1)

        assert instance.engine.calls[-1].request_id == urgent.request_id


async def test_what_cannot_begin_soon_stays_in_the_log() -> None:
    """Given 10,000 requests of one tenant, when the engine is full, then only a few are fetched."""
    async with an_instance(HeldEngine(), concurrency=4) as instance:
        for _ in range(10_000):
            instance.ask(Lane.BATCH)
        await instance.engine.until_called(4)
        await instance.until(lambda: len(instance.queue) > 0)

        assert len(instance.queue) <= FETCHED_MIN


async def test_a_tenant_behind_anothers_backlog_is_found_and_is_next() -> None:
    """Given a tenant that was heard of, when its next request lies behind 2,000 others, then it is not the last."""
    async with an_instance(HeldEngine(), concurrency=2) as instance:
        instance.ask(Lane.STANDARD, tenant="small")
        for _ in range(2_000):
            instance.ask(Lane.STANDARD, tenant="flood")
        wanted = instance.ask(Lane.STANDARD, tenant="small")
        await instance.engine.until_called(2)
        await instance.until(lambda: instance.station.gate.schedule.waits(Lane.STANDARD, "small"))

        instance.engine.end_first()
        await instance.engine.until_called(3)

        assert instance.engine.calls[2].request_id == wanted.request_id
        assert Counter(call.tenant for call in instance.engine.calls) == {"small": 2, "flood": 1}


async def test_reservations_never_go_over_the_cache() -> None:
    """Given a cache for three such requests, when ten wait, then three are in the engine, though it has ten places."""
    async with an_instance(HeldEngine(kv_tokens_max=3 * 32), concurrency=10) as instance:
        for _ in range(10):
            instance.ask(Lane.STANDARD, max_tokens=16)
        await instance.engine.until_called(3)
        await instance.engine.end_all(10)

        assert instance.engine.inside_max == 3
        await instance.until(lambda: instance.station.gate.budget.reserved == 0)


async def test_a_request_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = Counter[int]()

    def counted(message: Any, record: Any, homes: int) -> Any:
        readings[record.offset] += 1
        return read(message, record, homes)

    monkeypatch.setattr(tickets, "read", counted)
    async with an_instance(HeldEngine(), concurrency=2) as instance:
        for _ in range(3):
            instance.ask(Lane.STANDARD)
        await instance.engine.until_called(2)
        await instance.engine.end_all(3)

    assert readings == {0: 1, 1: 1, 2: 1}


async def test_what_no_engine_is_asked_for_needs_no_place() -> None:
    """Given a full engine, when a request for an unknown model comes, then it is answered at once."""
    async with an_instance(HeldEngine(), concurrency=1) as instance:
        instance.ask(Lane.STANDARD)
        await instance.engine.until_called(1)
        instance.ask(Lane.STANDARD, model="other")

        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 1)

        assert b"unknown_model" in (instance.log.records(INFERENCE_COMPLETED.name)[0].value or b"")
        assert len(instance.engine.running) == 1


async def test_nothing_is_left_when_the_partitions_go() -> None:
    """Given requests that wait and run, when the instance leaves, then none waits, and no place is taken."""
    async with an_instance(HeldEngine(), concurrency=2) as instance:
        for _ in range(20):
            instance.ask(Lane.STANDARD)
        await instance.engine.until_called(2)
        gate, queue = instance.station.gate, instance.queue

    assert (len(queue), len(gate.schedule), gate.taken, gate.budget.reserved) == (0, 0, 0, 0)


async def test_lengths_are_learned_from_answers() -> None:
    async with an_instance(HeldEngine(), concurrency=2) as instance:
        for _ in range(50):
            instance.ask(Lane.STANDARD, max_tokens=1000)
        await instance.engine.until_called(2)
        await instance.engine.end_all(50)
        await instance.until(lambda: instance.station.gate.taken == 0)

        assert instance.station.gate.expected.tokens(("w", "1", "s"), 1000) < 10  # answers have 2


async def test_the_place_of_a_call_that_is_cancelled_goes_to_the_next() -> None:
    """Given one place, when the call in it is not needed any more, then the next is in it, and both are answered."""
    async with an_instance(HeldEngine(), concurrency=1) as instance:
        first, second = instance.ask(Lane.STANDARD), instance.ask(Lane.STANDARD)
        await instance.engine.until_called(1)

        instance.cancellations.tell(first.request_id, "not needed")
        await instance.engine.until_called(2)

        assert instance.engine.inside_now == [second.request_id]
        instance.engine.end_first()
        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 2)


async def test_a_request_that_is_cancelled_while_it_waits_is_answered_at_once() -> None:
    """Given a full engine, when one that waits is not needed any more, then it is answered before any place is free."""
    async with an_instance(HeldEngine(), concurrency=1) as instance:
        requests = [instance.ask(Lane.STANDARD) for _ in range(3)]
        await instance.engine.until_called(1)
        await instance.until(lambda: len(instance.queue) == 2)

        instance.cancellations.tell(requests[1].request_id, "not needed")
        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 1)

        (answer,) = instance.log.records(INFERENCE_COMPLETED.name)
        completed = InferenceCompleted.model_validate_json(answer.value or b"")
        assert completed.error is not None
        assert (completed.request_id, completed.error.code) == (requests[1].request_id, "cancelled")
        schedule = instance.station.gate.schedule
        assert (len(instance.queue), len(schedule), schedule.tokens(Lane.STANDARD)) == (1, 1, 17)
        assert instance.engine.inside_now == [requests[0].request_id]

        # and the next place is another's
        instance.engine.end_first()
        await instance.engine.until_called(2)
        assert instance.engine.inside_now == [requests[2].request_id]


async def test_a_request_that_was_cancelled_before_it_came_waits_for_nothing() -> None:
    async with an_instance(HeldEngine(), concurrency=1) as instance:
        instance.ask(Lane.STANDARD)
        await instance.engine.until_called(1)
        late = a_request(2, priority=Lane.STANDARD)
        instance.cancellations.tell(late.request_id, "not needed")

        assert instance.ask(Lane.STANDARD).request_id == late.request_id

        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 1)
        assert len(instance.engine.calls) == 1


async def test_of_a_request_that_waits_twice_both_are_answered_when_it_is_cancelled() -> None:
    """Given a request and its redelivery under another event, when it is cancelled, then nobody waits for ever."""
    async with an_instance(HeldEngine(), concurrency=1) as instance:
        instance.ask(Lane.STANDARD)
        await instance.engine.until_called(1)
        twice = instance.ask(Lane.STANDARD)
        instance.ask(Lane.STANDARD, request_id=twice.request_id)
        await instance.until(lambda: len(instance.queue) == 2)

        instance.cancellations.tell(twice.request_id, "not needed")
        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 1)
        instance.engine.end_first()

        await instance.until(lambda: len(instance.log.records(INFERENCE_COMPLETED.name)) == 3)
        assert len(instance.engine.calls) == 1
        await instance.until(lambda: instance.station.gate.taken == 0)

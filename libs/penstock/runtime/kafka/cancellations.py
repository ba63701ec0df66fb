"""Owns what executors know of work that nobody awaits any more: heard by every instance, heeded by what runs here.

Cancels come on one partition that every instance reads by itself, from a while ago on: a cancel may be there before the
instance was, and may overtake its request, so that ids are remembered. Whoever misses one computes in vain, no more.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from uuid import UUID

from aiokafka.errors import KafkaError
from pydantic import ValidationError

from penstock.contracts.messages import WorkCancelled
from penstock.contracts.topics import WORK_CANCELLED
from penstock.runtime.clock import now_ms
from penstock.runtime.errors import Unavailable
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.broadcast import PATIENT_WAIT_MS
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.telemetry import LogEvent, logger

IDS_MAX = 100_000
"""Cancelled requests remembered; the oldest are forgotten first."""
LOOK_BACK_MS = 15 * 60_000
POLL_MS = 60_000
AGAIN_SECONDS = 1.0

PLACE = TopicPartition(WORK_CANCELLED.name, 0)


class WorkStoppedError(Exception):
    """Nobody awaits the answer of what ran in `heeding`; the message says why."""


class Cancellations:
    """The cancelled requests that are remembered, and how to stop those that run here."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        # By the ids' numbers: those hash and compare without a line of Python.
        self._reasons: OrderedDict[int, str] = OrderedDict()
        self._running: dict[int, list[Heeding]] = {}
        self._listeners: list[Callable[[UUID], None]] = []
        self._log = logger("cancellations")

    def tell(self, request_id: UUID, reason: str) -> None:
        """Nobody awaits this request any more: what runs for it here is stopped."""
        self._reasons[request_id.int] = reason
        self._reasons.move_to_end(request_id.int)
        while len(self._reasons) > self._ids_max:
            self._reasons.popitem(last=False)
        for each in self._running.get(request_id.int, ()):
            self._log.info(LogEvent.WORK_STOPPED, request_id=str(request_id), reason=reason)
            each.stop()
        for listener in self._listeners:
            listener(request_id)

    def listen(self, listener: Callable[[UUID], None]) -> None:
        """`listener` is called with every request that is cancelled from now on, once it is `told`."""
        self._listeners.append(listener)

    def told(self, request_id: UUID) -> bool:
        """Whether a request is known to be cancelled."""
        return request_id.int in self._reasons

    def check(self, request_id: UUID) -> None:
        """Raises WorkStoppedError where a request is known to be cancelled."""
        if request_id.int in self._reasons:
            raise WorkStoppedError(self._reasons[request_id.int])

    def heeding(self, request_id: UUID) -> "Heeding":
        """What is in this context is cancelled as soon as the request is.

        Entering raises WorkStoppedError where it is already, leaving does where it was. A cancellation from elsewhere
        (a drain that took too long) stays one.
        """
        return Heeding(request_id.int, self._reasons, self._running)


class Heeding:
    """See `Cancellations.heeding`. A class of its own, because every request enters one."""

    __slots__ = ("_before", "_reasons", "_request_id", "_running", "_stopped", "_task")

    def __init__(self, request_id: int, reasons: Mapping[int, str], running: "dict[int, list[Heeding]]") -> None:
        self._request_id = request_id
        self._reasons = reasons
        self._running = running
        self._stopped = False

    def __enter__(self) -> None:
        if self._request_id in self._reasons:
            raise WorkStoppedError(self._reasons[self._request_id])
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._before = task.cancelling()
        self._running.setdefault(self._request_id, []).append(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        others = self._running[self._request_id]
        others.remove(self)
        if not others:
            del self._running[self._request_id]
        # As asyncio.timeout does it: ours, unless somebody else wants the task to end as well.
        if self._stopped and self._task.uncancel() <= self._before and isinstance(error, asyncio.CancelledError):
            raise WorkStoppedError(self._reasons.get(self._request_id, "")) from error

    def stop(self) -> None:
        """Cancels what is inside."""
        if not self._stopped:
            self._stopped = True
            self._task.cancel()


class CancellationReader:
    """Reads the topic of cancels into `cancellations`; belongs to no group and commits nothing."""

    def __init__(
        self,
        broker: Broker,
        cancellations: Cancellations,
        aside: Aside,
        *,
        look_back_ms: int = LOOK_BACK_MS,
        at_ms: int | None = None,
    ) -> None:
        self._broker = broker
        self._cancellations = cancellations
        self._aside = aside
        self._since_ms = (now_ms() if at_ms is None else at_ms) - look_back_ms
        self._caught_up = asyncio.Event()
        self._log = logger("cancellations")

    async def run(self, stop: asyncio.Event) -> None:
        """Reads until cancelled, or stopped before the broker answers."""
        settings = GroupSettings(group_id=None, fetch_wait_ms=PATIENT_WAIT_MS)
        try:
            consumer = await connect(
                lambda: self._broker.consumer(settings), lambda each: each.start(), self._broker.name, stop
            )
        except Unavailable:
            return
        try:
            end = await self._begin(consumer)
            while True:
                if (consumer.fetched_to(PLACE) or 0) >= end:
                    self._caught_up.set()
                await self._poll(consumer)
        finally:
            await consumer.stop()

    async def caught_up(self, seconds: float) -> bool:
        """Whether what was there at the start has been read, now or within that time: work need not wait longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._caught_up.wait()
        return self._caught_up.is_set()

    async def _begin(self, consumer: Consumer) -> int:
        """The end of the topic, after the reader was set to what is behind it by the look-back."""
        while True:
            try:
                # Before anything is fetched: these would wait behind the fetch, on the same connection.
                end = (await consumer.end_offsets([PLACE]))[PLACE]
                start = (await consumer.offsets_at([PLACE], self._since_ms)).get(PLACE, end)
            except KafkaError as error:
                await self._again(error)
            else:
                consumer.assign([PLACE])
                consumer.seek(PLACE, start)
                return end

    async def _poll(self, consumer: Consumer) -> None:
        try:
            fetched = await consumer.getmany(PLACE, timeout_ms=POLL_MS)
        except KafkaError as error:
            await self._again(error)
            return
        for record in fetched.get(PLACE, ()):
            await self._take(record)

    async def _again(self, error: KafkaError) -> None:
        self._log.warning(LogEvent.FETCH_FAILED, topic=PLACE.topic, error=repr(error))
        await asyncio.sleep(AGAIN_SECONDS)

    async def _take(self, record: Received) -> None:
        try:
            cancelled = WorkCancelled.model_validate_json(record.value or b"")
        except ValidationError as error:
            self._log.warning(LogEvent.CANCEL_UNREADABLE, offset=record.offset, error=str(error)[:500])
            await self._aside.put(record, "not a WorkCancelled")
            return
        self._cancellations.tell(cancelled.request_id, cancelled.reason)

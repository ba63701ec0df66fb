"""Owns the executors' consumer shape: always polling, a bounded set of handlers in flight, commits behind them.

An epoch is one assignment: its partitions, buffers and tasks. Whatever ends late belongs to an epoch that is closed
and changes nothing in the next one. Offsets are committed up to the lowest unfinished record, about once a second,
when partitions are revoked and at the end, never after the group was left.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.errors import Unavailable
from penstock.runtime.health import Health
from penstock.runtime.kafka.attempts import Attempts, Handler, Outcome
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.epoch import COMMIT_SECONDS_MAX, NOBODY, POLL_MS, Delivery, Epoch
from penstock.runtime.kafka.lookback import SKEW_MS, LookBack, event_id
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.recent import Recent
from penstock.runtime.kafka.records import Received, TopicPartition, identity
from penstock.runtime.kafka.runners import Runners
from penstock.runtime.kafka.settling import Settling
from penstock.runtime.kafka.subscription import check_subscription
from penstock.runtime.kafka.waiting import Queue, UrgentFirst
from penstock.runtime.telemetry import Instruments, LogEvent, Tally, logger

IN_FLIGHT_MAX = 64
DRAIN_SECONDS = 20.0
REBALANCE_MARGIN_SECONDS = 5.0
RECENT_IDS_MAX = 10_000
RECENT_BYTES_MAX = 64 * 1024 * 1024
DELIVERIES_MAX = 3
COMMIT_EVERY_SECONDS = 1.0
FETCH_RETRY_SECONDS = 1.0


class InFlightConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Runs `handler` for every record of `topics`, the urgent topics first; publishes what it answers.

    `queue` chooses the next record where that order is not enough; it serves this consumer alone. What `identify` calls
    the same is run once: while it runs, and as long as its outputs are remembered.
    """

    def __init__(
        self,
        service: Service,
        topics: Sequence[str],
        group_id: str,
        handler: Handler,
        publisher: Publisher,
        broker: Broker,
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        drain_seconds: float = DRAIN_SECONDS,
        recent_ids_max: int = RECENT_IDS_MAX,
        recent_bytes_max: int = RECENT_BYTES_MAX,
        deliveries_max: int = DELIVERIES_MAX,
        session_seconds: float = 10.0,
        poll_seconds_max: float = 300.0,
        look_back: LookBack | None = None,
        queue: Queue | None = None,
        identify: Callable[[Received], str] = identity,
        health: Health | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        check_subscription(service, topics)
        self._topics = tuple(topics)
        self._group_id = group_id
        self._publisher = publisher
        self._broker = broker
        self._drain_seconds = drain_seconds
        self._settings = GroupSettings(
            group_id,
            rebalance_seconds=drain_seconds + REBALANCE_MARGIN_SECONDS,
            session_seconds=session_seconds,
            poll_seconds_max=poll_seconds_max,
        )
        self._look_back = look_back
        self._queue: Queue = UrgentFirst(len(topics)) if queue is None else queue
        self.context = copy_context()
        attempts = Attempts(handler, publisher, group_id, deliveries_max)
        recent = Recent(recent_ids_max, recent_bytes_max)
        self._settling = Settling(self, publisher, attempts, recent)
        self._runners = Runners(
            self, self._queue, attempts, recent, self._settling, in_flight_max, identify, self._answered_before
        )
        self._queue.bind(self.wake, self._hungry)
        self._health = health
        self._tallies: dict[str, Tally] = {}
        self._consumer: Consumer | None = None
        self._epoch: Epoch | None = None
        self._past: list[Epoch] = []
        """Closed epochs, of which something may still run."""
        self._stopping = False
        self._commit_due: asyncio.TimerHandle | None = None
        self._committing: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None
        self._log = logger("consumer").bind(group=group_id)
        if instruments is not None:
            self._show(instruments)

    def _show(self, instruments: Instruments) -> None:
        instruments.in_flight.labels(self._group_id).set_function(lambda: self._runners.running)
        instruments.buffered.labels(self._group_id).set_function(lambda: self.buffered)
        instruments.lag.add(self.lag)
        self._tallies = {topic: instruments.tallies.add(self._group_id, topic, Outcome) for topic in self._topics}

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`, then drain, commit and leave. Raises what makes going on impossible."""
        self._failure = asyncio.get_running_loop().create_future()
        try:
            self._consumer = await connect(self._make_consumer, lambda each: each.start(), self._broker.name, stop)
        except Unavailable:
            return
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((stopped, self._failure), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await self._leave(self._consumer)
        if self._failure.done():
            self._failure.result()

    def _make_consumer(self) -> Consumer:
        self._ready(False, "joining the group")
        consumer = self._broker.consumer(self._settings)
        consumer.subscribe(self._topics, listener=self)
        return consumer

    async def _leave(self, consumer: Consumer) -> None:
        self._stopping = True
        self._ready(False, "stopping")
        if self._epoch is not None:
            await self._close(self._epoch)
        orphans = [task for epoch in self._past for task in epoch.tasks]
        for task in orphans:
            task.cancel()
        await asyncio.gather(*orphans, return_exceptions=True)
        self._settling.stop()
        await consumer.stop()

    # What the group coordinator tells.

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Drain and commit before the group moves on; what outlives the budget runs on as an orphan."""
        if revoked:
            self._log.info(LogEvent.PARTITIONS_REVOKED, count=len(revoked))
        self._ready(False, "rebalancing")
        if self._epoch is not None:
            await self._close(self._epoch)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Begin a new epoch. An orphan whose partition came back is joined by its redelivery, others end."""
        if self._stopping:
            return
        self._past = [epoch for epoch in self._past if epoch.open or epoch.tasks]
        for past in self._past:
            for task, delivery in past.tasks.items():
                if delivery is not None and delivery.lane.partition not in assigned:
                    task.cancel()
        epoch = self._epoch = Epoch(assigned, self._topics)
        for index, partitions in enumerate(epoch.partitions):
            if partitions:
                epoch.pollers.append(asyncio.create_task(self._poll(epoch, index, partitions)))
        self._log.info(LogEvent.PARTITIONS_ASSIGNED, count=len(assigned))
        self._ready(True, f"{len(assigned)} partitions")

    # Taking records.

    async def _poll(self, epoch: Epoch, index: int, partitions: list[TopicPartition]) -> None:
        consumer = self._consumer
        assert consumer is not None
        queue, hungry = self._queue, epoch.hungry[index]
        while not epoch.closed:
            try:
                await self._publisher.room()
                while (room := queue.room(index)) <= 0:
                    hungry.clear()
                    await self._wait_polling(consumer, hungry)
                fetched = await consumer.getmany(*partitions, timeout_ms=POLL_MS, max_records=room)
                await self._recall(epoch, epoch.oldest_new(fetched))
            except KafkaError as error:
                self._log.warning(LogEvent.FETCH_FAILED, error=repr(error))
                if not error.retriable:
                    self.fail(error)
                    return
                await asyncio.sleep(FETCH_RETRY_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001  # a poller that ends in silence would stall its topic
                self.fail(error)
                return
            for partition, records in fetched.items():
                lane = epoch.lanes[partition]
                for record in records:
                    lane.frontier.begin(record.offset)
                    queue.offer(index, lane, record)
            self._runners.start(epoch)

    async def _recall(self, epoch: Epoch, oldest_ms: int | None) -> None:
        """Before a partition's first records are handled: what had been answered when its last owner died?"""
        if self._look_back is None or oldest_ms is None or oldest_ms > epoch.began_ms + SKEW_MS:
            return
        if epoch.looked_back_to_ms is not None and oldest_ms >= epoch.looked_back_to_ms:
            return  # no answer is older than what it answers
        since_ms = max(0, oldest_ms - SKEW_MS)
        while True:
            try:
                epoch.answered |= await self._look_back.answered(since_ms)
            except KafkaError as error:
                self._log.warning(LogEvent.FETCH_FAILED, error=repr(error))
                await asyncio.sleep(FETCH_RETRY_SECONDS)
            else:
                epoch.looked_back_to_ms = since_ms
                return

    async def _wait_polling(self, consumer: Consumer, hungry: asyncio.Event) -> None:
        """Wait for room, touching the consumer now and then: unpolled, the client would leave the group."""
        try:
            async with asyncio.timeout(self._settings.poll_seconds_max / 3):
                await hungry.wait()
        except TimeoutError:
            await consumer.getmany(NOBODY, timeout_ms=0)

    def wake(self) -> None:
        """The queue may give more than when it was asked last."""
        if self._epoch is not None:
            self._runners.start(self._epoch)

    def _hungry(self, topic: int) -> None:
        if self._epoch is not None:
            self._epoch.hungry[topic].set()

    # What those who handle records need.

    def spawn(self, delivery: Delivery, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run it as a part of its record's epoch."""
        epoch = delivery.epoch
        task = asyncio.get_running_loop().create_task(work, context=self.context)
        epoch.tasks[task] = delivery
        task.add_done_callback(partial(self._ended, epoch), context=self.context)
        return task

    def _ended(self, epoch: Epoch, task: "asyncio.Task[None]") -> None:
        """Also where a task was cancelled before its first step."""
        if (delivery := epoch.tasks.pop(task)) is not None:
            self._runners.abandon(delivery)
        epoch.runners.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
        self.wake()

    def finished(self, deliveries: Sequence[Delivery]) -> None:
        """Their offsets are done."""
        at = monotonic()
        for each in deliveries:
            each.lane.frontier.finish(each.record.offset)
            each.epoch.over(each)
            if self._tallies:
                self._tallies[each.record.topic].count(each.outcome, at - each.began)
        if self._epoch is not None:
            self._commit_soon(self._epoch)
            self._runners.start(self._epoch)

    def _answered_before(self, epoch: Epoch, record: Received) -> Sequence[Outgoing] | None:
        """What is missing beside an answer from before this assignment; None where there is no answer."""
        event = event_id(record)
        if event not in epoch.answered or self._look_back is None:
            return None
        answer = epoch.answered.pop(event)
        if answer is None:
            return ()
        try:
            return self._look_back.rest(record, answer)
        except ValueError as error:
            self._log.warning(LogEvent.LOOK_BACK_CUT, error=str(error))
            return None

    def fail(self, error: BaseException) -> None:
        """It cannot go on: `run` ends, and raises this."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    # Ending an epoch, committing.

    async def _close(self, epoch: Epoch) -> None:
        """Once per epoch, whoever asks first; everybody waits for it."""
        if epoch.closing is None:
            epoch.closing = asyncio.create_task(self._drain(epoch))
        await asyncio.shield(epoch.closing)

    async def _drain(self, epoch: Epoch) -> None:
        epoch.closed = True
        for poller in epoch.pollers:
            poller.cancel()
        await asyncio.gather(*epoch.pollers, return_exceptions=True)
        self._queue.clear()
        failure = self._failure
        assert failure is not None
        if epoch.open and not failure.done():
            waited = (epoch.emptied(), failure)
            await asyncio.wait(waited, timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if epoch.open:
            self._log.warning(LogEvent.DRAIN_EXCEEDED, count=epoch.open, drain_seconds=self._drain_seconds)
        self._past.append(epoch)
        await self._cancel_commit()
        await self._commit(epoch)
        if self._epoch is epoch:
            self._epoch = None

    def _commit_soon(self, epoch: Epoch) -> None:
        if self._commit_due is None and not epoch.closed:
            loop = asyncio.get_running_loop()
            self._commit_due = loop.call_later(COMMIT_EVERY_SECONDS, self._start_commit, epoch)

    def _start_commit(self, epoch: Epoch) -> None:
        self._commit_due = None
        if not epoch.closed and (self._committing is None or self._committing.done()):
            self._committing = asyncio.create_task(self._commit(epoch))

    async def _cancel_commit(self) -> None:
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        if self._committing is not None:
            self._committing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._committing
            self._committing = None

    async def _commit(self, epoch: Epoch) -> None:
        offsets = epoch.uncommitted()
        if not offsets or self._consumer is None:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            # Only a redelivery is at stake, and the recent memory answers that.
            self._log.warning(LogEvent.COMMIT_FAILED, error=repr(error))
            self._commit_soon(epoch)
        else:
            epoch.committed(offsets)

    # What others may know.

    def _ready(self, ready: bool, detail: str) -> None:
        if self._health is not None:
            self._health.set_ready(f"consumer {self._group_id}", ready, detail)

    @property
    def buffered(self) -> int:
        """Records fetched that wait for a free handler."""
        return len(self._queue)

    def lag(self) -> Mapping[tuple[str, str, int], int]:
        """Records not finished, by (group, topic, partition)."""
        epoch, consumer = self._epoch, self._consumer
        return {} if epoch is None or consumer is None else epoch.lag(self._group_id, consumer)

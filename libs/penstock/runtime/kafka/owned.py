"""Owns the orchestrator's consumer shape: batches of all owned partitions, offsets kept by the owner.

The owner's store says where to go on; Kafka's committed offsets are written for monitoring only. One getmany is
outstanding at a time and is never cancelled while its partitions are owned, so no record is lost to a wake-up.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from penstock.contracts.topics import Service
from penstock.runtime.clock import now_ms
from penstock.runtime.errors import Fenced, Unavailable
from penstock.runtime.health import Health
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.kafka.subscription import check_subscription
from penstock.runtime.telemetry import Instruments, LogEvent, logger

RECORDS_MAX = 1000
POLL_MS = 60_000
ALARM_SECONDS_MAX = 3600.0
COMMIT_EVERY_SECONDS = 1.0
COMMIT_SECONDS_MAX = 5.0
AWAIT_SECONDS_MIN = 0.1
AWAIT_SECONDS_MAX = 5.0
NEVER_SECONDS = 86_400.0
"""The client-side poll clock is of no use here: a batch that waits for Postgres must not cost the partitions."""


class BatchOwner(Protocol):
    """Who decides on the batches and keeps the offsets."""

    async def take_over(self, partitions: frozenset[int]) -> Mapping[tuple[str, int], int]:
        """The next offset by (topic, partition); one that is absent begins at its earliest record."""

    async def release(self, partitions: frozenset[int]) -> None:
        """Forget these partitions; the batch that ran is over."""

    async def process(self, records: Sequence[Received]) -> None:
        """One batch; records in offset order per partition, none where an alarm is due or wake() was called."""

    def next_wake_ms(self) -> int | None:
        """When the next alarm is due, in milliseconds since 1970; None where there is none."""


class _Ownership:
    """One assignment. `lock` is held while the owner works for it."""

    def __init__(self, partitions: set[TopicPartition]) -> None:
        self.partitions = partitions
        self.numbers = frozenset(partition.partition for partition in partitions)
        self.lock = asyncio.Lock()
        self._revoked = False
        self.taken = False
        self.next: dict[TopicPartition, int] = {}
        self.committed: dict[TopicPartition, int] = {}

    def is_revoked(self) -> bool:
        """Whether the partitions are gone; may change at any await."""
        return self._revoked

    def revoke(self) -> None:
        """The partitions go."""
        self._revoked = True


class OwnedBatchConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Polls `topics` for the owner. All have the same partition count, so one instance owns a number in all."""

    def __init__(
        self,
        service: Service,
        topics: Sequence[str],
        group_id: str,
        owner: BatchOwner,
        broker: Broker,
        *,
        records_max: int = RECORDS_MAX,
        drain_seconds: float = 20.0,
        session_seconds: float = 10.0,
        health: Health | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        check_subscription(service, topics)
        self._topics = tuple(topics)
        self._group_id = group_id
        self._owner = owner
        self._broker = broker
        self._records_max = records_max
        self._drain_seconds = drain_seconds
        self._settings = GroupSettings(
            group_id,
            rebalance_seconds=drain_seconds + 5.0,
            session_seconds=session_seconds,
            poll_seconds_max=NEVER_SECONDS,
        )
        self._health = health
        self._instruments = instruments
        self._consumer: Consumer | None = None
        self._owned: _Ownership | None = None
        self._signal = asyncio.Event()
        self._woken = False
        self._stop = asyncio.Event()
        self._poll: asyncio.Task[Mapping[TopicPartition, Sequence[Received]]] | None = None
        self._commit_due: asyncio.TimerHandle | None = None
        self._committing: asyncio.Task[None] | None = None
        self._log = logger("owner").bind(group=group_id)
        if instruments is not None:
            instruments.lag.add(self.lag)

    def wake(self) -> None:
        """Call process([]) promptly."""
        self._woken = True
        self._signal.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Poll until `stop`, then release, commit and leave. Raises what the owner raises, other than its signals."""
        self._stop = stop
        try:
            self._consumer = await connect(self._make_consumer, lambda each: each.start(), self._broker.name, stop)
        except Unavailable:
            return
        stopped = asyncio.ensure_future(stop.wait())
        stopped.add_done_callback(lambda _: self._signal.set())
        try:
            await self._loop(self._consumer)
        finally:
            stopped.cancel()
            self._ready(False, "stopping")
            if self._owned is not None:
                await self._let_go(self._owned)
            await self._consumer.stop()

    def _make_consumer(self) -> Consumer:
        self._ready(False, "joining the group")
        consumer = self._broker.consumer(self._settings)
        consumer.subscribe(self._topics, listener=self)
        return consumer

    # What the group coordinator tells. Taking over happens in the loop: heartbeats wait for these callbacks.

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Wait for the running batch, then release."""
        self._ready(False, "rebalancing")
        if self._owned is not None:
            self._log.info(LogEvent.PARTITIONS_REVOKED, count=len(revoked))
            await self._let_go(self._owned)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """The loop takes over."""
        self._log.info(LogEvent.PARTITIONS_ASSIGNED, count=len(assigned))
        self._owned = _Ownership(assigned)
        self._signal.set()

    # The loop.

    async def _loop(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            owned = self._owned
            if owned is None or owned.is_revoked():
                await self._wait(None)
            elif not owned.taken:
                await self._take_over(consumer, owned)
            else:
                await self._turn(consumer, owned)

    async def _turn(self, consumer: Consumer, owned: _Ownership) -> None:
        if self._poll is None and owned.partitions:
            self._poll = asyncio.create_task(self._fetch(consumer, owned))
        due_ms = self._owner.next_wake_ms()
        if not self._awaited(due_ms):
            await self._wait(due_ms)
        if owned.is_revoked() or self._stop.is_set():
            return
        records: list[Received] = []
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            records = await self._fetched(poll, owned)
        if records or self._woken or _is_due(self._owner.next_wake_ms()):
            self._woken = False
            await self._process(owned, records)

    async def _fetch(self, consumer: Consumer, owned: _Ownership) -> Mapping[TopicPartition, Sequence[Received]]:
        """Signals in the step in which it ends: what came is processed before aiokafka goes about its next fetch."""
        try:
            return await consumer.getmany(*owned.partitions, timeout_ms=POLL_MS, max_records=self._records_max)
        finally:
            self._signal.set()

    def _awaited(self, due_ms: int | None) -> bool:
        return self._woken or (self._poll is not None and self._poll.done()) or _is_due(due_ms)

    async def _wait(self, due_ms: int | None) -> None:
        """Until something is signalled, or the alarm is due."""
        self._signal.clear()
        if self._stop.is_set():
            return
        seconds = None if due_ms is None else min(max(0.0, (due_ms - now_ms()) / 1000), ALARM_SECONDS_MAX)
        timer = None
        if seconds is not None:
            timer = asyncio.get_running_loop().call_later(seconds, self._signal.set)
        try:
            await self._signal.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def _fetched(
        self, poll: "asyncio.Task[Mapping[TopicPartition, Sequence[Received]]]", owned: _Ownership
    ) -> list[Received]:
        try:
            fetched = poll.result()
        except KafkaError as error:
            self._log.warning(LogEvent.FETCH_FAILED, error=repr(error))
            if not error.retriable:
                raise
            await self._pause(AWAIT_SECONDS_MAX)
            return []
        records: list[Received] = []
        for partition, batch in fetched.items():
            records.extend(batch)
            owned.next[partition] = batch[-1].offset + 1
        return records

    async def _process(self, owned: _Ownership, records: list[Received]) -> None:
        delay = AWAIT_SECONDS_MIN
        while not (owned.is_revoked() or self._stop.is_set()):
            started = time.monotonic()
            async with owned.lock:
                if owned.is_revoked():
                    return
                try:
                    await self._owner.process(records)
                except Fenced as error:
                    self._log.warning(LogEvent.OWNER_FENCED, reason=str(error))
                    await self._forget(owned)
                    return
                except Unavailable as error:
                    self._log.warning(LogEvent.OWNER_AWAITED, reason=str(error), again_in_seconds=delay)
                else:
                    self._done(owned, len(records), time.monotonic() - started)
                    return
            await self._pause(delay)
            delay = min(delay * 2, AWAIT_SECONDS_MAX)

    def _done(self, owned: _Ownership, count: int, seconds: float) -> None:
        if count and self._commit_due is None:
            loop = asyncio.get_running_loop()
            self._commit_due = loop.call_later(COMMIT_EVERY_SECONDS, self._start_commit, owned)
        if self._instruments is not None:
            self._instruments.batch_seconds.labels(self._group_id).observe(seconds)
            self._instruments.batch_records.labels(self._group_id).observe(count)

    # Taking over and letting go.

    async def _take_over(self, consumer: Consumer, owned: _Ownership) -> None:
        delay = AWAIT_SECONDS_MIN
        while not (owned.is_revoked() or self._stop.is_set()):
            async with owned.lock:
                if owned.is_revoked():
                    return
                try:
                    offsets = await self._owner.take_over(owned.numbers)
                    await self._seek(consumer, owned, offsets)
                except Unavailable as error:
                    self._log.warning(LogEvent.OWNER_AWAITED, reason=str(error), again_in_seconds=delay)
                except KafkaError as error:  # revoked meanwhile, or the broker is away
                    self._log.warning(LogEvent.FETCH_FAILED, error=repr(error))
                else:
                    owned.taken = True
                    self._woken = True  # an alarm may be due, leftovers may be waiting
                    self._log.info(LogEvent.PARTITIONS_TAKEN_OVER, partitions=sorted(owned.numbers))
                    self._ready(True, f"{len(owned.numbers)} partitions")
                    return
            await self._pause(delay)
            delay = min(delay * 2, AWAIT_SECONDS_MAX)

    async def _seek(self, consumer: Consumer, owned: _Ownership, offsets: Mapping[tuple[str, int], int]) -> None:
        absent: list[TopicPartition] = []
        for partition in owned.partitions:
            offset = offsets.get((partition.topic, partition.partition))
            if offset is None:
                absent.append(partition)
            else:
                consumer.seek(partition, offset)
                owned.next[partition] = offset
        if absent and not await consumer.seek_to_beginning(*absent):
            raise Unavailable("the earliest offsets are not known")

    async def _forget(self, owned: _Ownership) -> None:
        """Fenced: what is in memory and in the buffers is not ours any more; the loop takes over again."""
        await self._owner.release(owned.numbers)
        await self._drop_poll()
        owned.taken = False
        owned.next.clear()
        self._ready(False, "fenced")

    async def _let_go(self, owned: _Ownership) -> None:
        if owned.is_revoked():
            return
        owned.revoke()
        self._signal.set()
        try:
            async with asyncio.timeout(self._drain_seconds):
                await owned.lock.acquire()
        except TimeoutError:
            self._log.error(LogEvent.DRAIN_EXCEEDED, drain_seconds=self._drain_seconds)
        await self._drop_poll()
        await self._cancel_commit()
        await self._commit(owned)
        if owned.taken:
            await self._owner.release(owned.numbers)

    async def _drop_poll(self) -> None:
        """Only where the partitions are gone: what it may have fetched is theirs who own them now."""
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.cancel()
            with contextlib.suppress(asyncio.CancelledError, KafkaError):
                await poll

    # Kafka's own commits, for monitoring.

    def _start_commit(self, owned: _Ownership) -> None:
        self._commit_due = None
        if not owned.is_revoked() and (self._committing is None or self._committing.done()):
            self._committing = asyncio.create_task(self._commit(owned))

    async def _cancel_commit(self) -> None:
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        if self._committing is not None:
            self._committing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._committing
            self._committing = None

    async def _commit(self, owned: _Ownership) -> None:
        moved = {each: offset for each, offset in owned.next.items() if owned.committed.get(each) != offset}
        if not moved or self._consumer is None:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS_MAX):
                await self._consumer.commit(moved)
        except (KafkaError, TimeoutError) as error:
            self._log.warning(LogEvent.COMMIT_FAILED, error=repr(error))
        else:
            owned.committed.update(moved)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def _ready(self, ready: bool, detail: str) -> None:
        if self._health is not None:
            self._health.set_ready(f"consumer {self._group_id}", ready, detail)

    def lag(self) -> Mapping[tuple[str, str, int], int]:
        """Records not processed, by (group, topic, partition)."""
        owned, consumer = self._owned, self._consumer
        if owned is None or owned.is_revoked() or consumer is None:
            return {}
        lags: dict[tuple[str, str, int], int] = {}
        for partition, position in list(owned.next.items()):
            if (end := consumer.highwater(partition)) is not None:
                lags[self._group_id, partition.topic, partition.partition] = max(0, end - position)
        return lags


def _is_due(due_ms: int | None) -> bool:
    return due_ms is not None and due_ms <= now_ms()

"""Owns publishing: batches per partition in send order, and an exact account of what was not acknowledged.

One partition is one lane: a queue, and at most one batch on its way. So nothing overtakes anything, whatever fails,
and while a batch travels the next one grows. A send costs an append; no record waits for a round trip of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTER_PREFIX, Service
from penstock.runtime.errors import NotAllowed, Unavailable
from penstock.runtime.kafka.broker import CLOSE_SECONDS, RETRY_SECONDS_MAX, RETRY_SECONDS_MIN, Broker, Producer, connect
from penstock.runtime.kafka.lanes import Entry, Lane, Ticket, settle
from penstock.runtime.kafka.records import partition_of, size_of
from penstock.runtime.kafka.subscription import may_publish
from penstock.runtime.telemetry import Instruments, LogEvent, logger

BATCH_BYTES_MAX, RECORD_BYTES_MAX, PENDING_BYTES_MAX = 256 * 1024, 900_000, 64 * 1024 * 1024
DELIVERY_SECONDS = 600.0
CLOSE_FLUSH_SECONDS = 2.0

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_REFUSED = (TopicAuthorizationFailedError, InvalidTopicError)


class Publisher:
    """What one service says. `send` queues at once and in order; its future resolves when all is acknowledged."""

    def __init__(
        self,
        service: Service,
        broker: Broker,
        *,
        instruments: Instruments | None = None,
        compression: str | None = None,
        delivery_seconds: float = DELIVERY_SECONDS,
        pending_bytes_max: int = PENDING_BYTES_MAX,
        record_bytes_max: int = RECORD_BYTES_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
    ) -> None:
        self._service = service
        self._broker = broker
        self._instruments = instruments
        self._compression = compression
        self._delivery_seconds = delivery_seconds
        self._pending_bytes_max = pending_bytes_max
        self._record_bytes_max = record_bytes_max
        self._batch_bytes_max = batch_bytes_max
        self._allowed = may_publish(service)
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._partitions: dict[str, int] = {}
        self._unplaced: dict[str, deque[Entry]] = {}
        self._next_unkeyed: dict[str, int] = {}
        self._line: list[Lane] = []
        self._handing_over = False
        self._pending_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._open_entries = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._producer: Producer | None = None
        self._generation = 0
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._log = logger("publisher")
        if instruments is not None:
            instruments.pending_bytes.set_function(lambda: self._pending_bytes)

    async def start(self) -> None:
        """Connect; waits while the broker is away."""
        await self._create_producer()

    @property
    def pending_bytes(self) -> int:
        """Bytes sent and neither acknowledged nor given up on."""
        return self._pending_bytes

    async def room(self) -> None:
        """Wait until less than `pending_bytes_max` is pending: the bound on memory while the broker is away."""
        await self._room.wait()

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        """Queue records now, in order. Raises NotAllowed at once; the future raises NotAcknowledged."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not records:
            future.set_result(None)
            return future
        for record in records:
            if not self._allowed(record.topic):
                raise NotAllowed(f"the registry does not let {self._service} publish {record.topic}")
        ticket = Ticket(len(records), future)
        if self._stopping.is_set():
            for record in records:
                ticket.fail(record, "the publisher has stopped", permanent=False)
            return future
        until = loop.time() + self._delivery_seconds
        for record in records:
            size = size_of(record)
            if size > self._record_bytes_max and size > (bytes_max := self._bytes_max(record.topic)):
                ticket.fail(record, f"{size} bytes for {record.topic} are more than {bytes_max}", permanent=True)
                continue
            self._pending_bytes += size
            self._open_entries += 1
            self._place((record, size, ticket, until))
        if self._open_entries:
            self._idle.clear()
        if self._pending_bytes >= self._pending_bytes_max:
            self._room.clear()
        return future

    async def stop(self, flush_seconds: float = 10.0) -> None:
        """Flush for so long, then tell the senders what was not acknowledged, and close."""
        try:
            async with asyncio.timeout(flush_seconds):
                await self._idle.wait()
        except TimeoutError:
            self._log.warning(LogEvent.RECORDS_NOT_ACKNOWLEDGED, count=self._open_entries, reason="stopped")
        self._stopping.set()
        self._ready.set()
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close(0.0 if self._open_entries else CLOSE_FLUSH_SECONDS)
        if unfinished := {*self._tasks, *self._sending()}:
            _, late = await asyncio.wait(unfinished, timeout=CLOSE_SECONDS)
            for each in late:
                each.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for lane in self._lanes.values():
            lane.take_back()
        for entries in [lane.queue for lane in self._lanes.values()] + list(self._unplaced.values()):
            self._give_up(entries, "the publisher has stopped", permanent=False)
            entries.clear()

    def _bytes_max(self, topic: str) -> int:
        """A record as large as its topic takes must still fit on the dead letter topic, batch overhead included."""
        dead = DEAD_LETTER_BYTES_MAX - 1024 if topic.startswith(DEAD_LETTER_PREFIX) else 0
        return max(self._record_bytes_max, dead)

    def _place(self, entry: Entry) -> None:
        record = entry[0]
        topic, partition = record.topic, record.partition
        if partition is None:
            count = self._partitions.get(topic)
            if count is None or topic in self._unplaced:
                waiting = self._unplaced.get(topic)
                if waiting is None:
                    waiting = self._unplaced[topic] = deque()
                    self._spawn(self._learn_partitions(topic))
                waiting.append(entry)
                return
            partition = self._choose(record, count)
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = Lane(topic, partition)
        lane.queue.append(entry)
        if not (lane.waiting or lane.sent):
            self._stand_in_line(lane)

    def _choose(self, record: Outgoing, count: int) -> int:
        if record.key is not None:
            return partition_of(record.key, count)
        turn = self._next_unkeyed.get(record.topic, 0)
        self._next_unkeyed[record.topic] = turn + 1
        return turn % count

    async def _learn_partitions(self, topic: str) -> None:
        delay = RETRY_SECONDS_MIN
        while not self._stopping.is_set():
            await self._ready.wait()
            producer = self._producer
            if producer is None:
                return
            try:
                self._partitions[topic] = len(await producer.partitions_for(topic))
            except (KafkaError, OSError, TimeoutError) as error:
                self._log.warning(LogEvent.TOPIC_AWAITED, topic=topic, error=repr(error))
                self._expire(self._unplaced[topic], repr(error))
                await self._pause(delay)
                delay = min(delay * 2, RETRY_SECONDS_MAX)
            else:
                for entry in self._unplaced.pop(topic):
                    self._place(entry)
                return

    def _stand_in_line(self, lane: Lane) -> None:
        lane.waiting = True
        self._line.append(lane)
        self._hand_over_soon()

    def _hand_over_soon(self) -> None:
        """In the loop's next round: what is sent in this one shares its batch, and all batches share a request."""
        if not self._handing_over:
            self._handing_over = True
            asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._handing_over = False
        producer = self._producer
        if producer is None or self._stopping.is_set():
            return  # a new producer finds them in line
        line, self._line = self._line, []
        for lane in line:
            lane.waiting = False
            if lane.queue:
                self._deliver(lane, producer)
        producer.depart()

    def _deliver(self, lane: Lane, producer: Producer) -> None:
        batch, entries = self._fill(lane, producer)
        if not entries:  # none of them was a record
            if lane.queue:
                self._stand_in_line(lane)
            return
        sending = producer.submit(batch, lane.topic, partition=lane.partition)
        lane.departed(entries, sending)
        sending.add_done_callback(partial(self._answered, lane, entries, self._generation))

    def _sending(self) -> "list[asyncio.Future[Any]]":
        return [lane.sending for lane in self._lanes.values() if lane.sending is not None]

    def _answered(self, lane: Lane, entries: list[Entry], generation: int, sent: "asyncio.Future[Any]") -> None:
        """A batch was acknowledged, or failed; a cancelled one took too long."""
        error = TimeoutError() if sent.cancelled() else sent.exception()
        if lane.sent is not entries:
            return  # the publisher has stopped meanwhile, and has told the senders
        if error is None:
            lane.landed()
            self._acknowledge(lane.topic, entries)
        else:
            self._failed(lane, entries, error)
            self._recreate(generation, repr(error))  # the sequence number was used up
        if lane.queue and not lane.waiting:
            self._stand_in_line(lane)

    def _failed(self, lane: Lane, entries: list[Entry], error: BaseException) -> None:
        if isinstance(error, _REFUSED) or (isinstance(error, _TOO_LARGE) and len(entries) == 1):
            lane.landed()
            self._give_up(entries, repr(error), permanent=True)
        elif isinstance(error, _TOO_LARGE):
            lane.take_back()
            lane.one_by_one = len(entries)
        else:
            lane.take_back()
            self._expire(lane.queue, repr(error))

    def _fill(self, lane: Lane, producer: Producer) -> tuple[object, list[Entry]]:
        batch = producer.create_batch()
        append = batch.append
        queue = lane.queue
        entries: list[Entry] = []
        count_max = len(queue)
        if lane.one_by_one:
            lane.one_by_one -= 1
            count_max = 1
        at_ms = time.time_ns() // 1_000_000
        while len(entries) < count_max:
            record = queue[0][0]
            try:
                taken = append(timestamp=at_ms, key=record.key, value=record.value, headers=record.headers)
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                self._give_up((queue.popleft(),), f"not a record: {error!r}", permanent=True)
                count_max -= 1
                continue
            if taken is None:
                break
            entries.append(queue.popleft())
        return batch, entries

    def _acknowledge(self, topic: str, entries: Sequence[Entry]) -> None:
        self._freed(len(entries), settle(entries))
        if self._instruments is not None:
            self._instruments.published.labels(topic).inc(len(entries))

    def _give_up(self, entries: Iterable[Entry], reason: str, *, permanent: bool) -> None:
        count = freed = 0
        for record, size, ticket, _ in entries:
            count += 1
            freed += size
            ticket.fail(record, reason, permanent=permanent)
            if self._instruments is not None:
                self._instruments.not_acknowledged.labels(record.topic).inc()
        self._freed(count, freed)

    def _expire(self, queue: deque[Entry], reason: str) -> None:
        """Give up on what has been tried for `delivery_seconds`: the front, as all were given equally long."""
        at = asyncio.get_running_loop().time()
        expired: list[Entry] = []
        while queue and queue[0][3] <= at:
            expired.append(queue.popleft())
        if expired:
            self._log.error(LogEvent.RECORDS_NOT_ACKNOWLEDGED, count=len(expired), reason=reason)
            self._give_up(expired, f"not delivered in {self._delivery_seconds} s: {reason}", permanent=False)

    def _freed(self, count: int, freed: int) -> None:
        self._open_entries -= count
        self._pending_bytes -= freed
        if self._pending_bytes < self._pending_bytes_max:
            self._room.set()
        if not self._open_entries:
            self._idle.set()

    def _recreate(self, generation: int, reason: str) -> None:
        """A new producer after a failed batch: the old one's sequence has a hole, all it would send is refused."""
        if generation != self._generation or self._stopping.is_set():
            return
        self._generation += 1
        self._ready.clear()
        producer, self._producer = self._producer, None
        self._log.warning(LogEvent.PRODUCER_RECREATED, reason=reason, broker=self._broker.name)
        self._spawn(self._replace(producer))

    async def _replace(self, producer: Producer | None) -> None:
        if producer is not None:
            await producer.close(CLOSE_FLUSH_SECONDS)  # other lanes' batches get the time to be acknowledged
            for sending in self._sending():
                sending.cancel()  # it waits for something that a closed producer never hears of
        await self._pause(RETRY_SECONDS_MIN)
        await self._create_producer()

    async def _create_producer(self) -> None:
        def make() -> Producer:
            return self._broker.producer(compression=self._compression, batch_bytes_max=self._batch_bytes_max)

        try:
            producer = await connect(make, lambda each: each.start(), self._broker.name, self._stopping)
        except Unavailable:
            return
        if self._stopping.is_set():
            await producer.close(0.0)
            return
        self._producer = producer
        self._ready.set()
        self._hand_over_soon()
        if self._instruments is not None:
            self._instruments.producers_created.inc()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

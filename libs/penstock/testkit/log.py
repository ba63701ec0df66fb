"""Owns the in-memory log: a broker that the publisher and the consumer shapes use like the real one.

It keeps records per partition, rebalances groups eagerly by range, and knows the faults that matter: away, refused,
a hole in the offsets. contracts-tests/conformance runs the same tests on it and on Kafka.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    UnknownTopicOrPartitionError,
)

from penstock.contracts.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTER_PREFIX, MESSAGE_BYTES_MAX
from penstock.runtime.kafka.broker import GroupSettings
from penstock.runtime.kafka.records import Received, TopicPartition, partition_of
from penstock.testkit.group import MemoryGroup


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """A record as it lies in the log."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class _Partition:
    records: list[MemoryRecord] = field(default_factory=list)
    end: int = 0

    def from_offset(self, offset: int, count: int) -> list[MemoryRecord]:
        """Records at or above the offset; holes are skipped."""
        low, high = 0, len(self.records)
        while low < high:
            middle = (low + high) // 2
            if self.records[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return self.records[low : low + count]


class MemoryLog:
    """Topics, groups and faults. `partitions` names the topics that exist; nothing is created by itself."""

    name = "memory"

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._topics = {topic: [_Partition() for _ in range(count)] for topic, count in partitions.items()}
        self.groups: dict[str, MemoryGroup] = defaultdict(lambda: MemoryGroup(self.partitions))
        self.committed: dict[str, dict[TopicPartition, int]] = defaultdict(dict)
        self._arrived = asyncio.Event()
        self._present = asyncio.Event()
        self._present.set()
        self._refusals: list[tuple[str, KafkaError]] = []
        self._clock_ms = 1_700_000_000_000

    # What tests do to it.

    def create_topic(self, topic: str, partitions: int) -> None:
        """Add an empty topic."""
        self._topics[topic] = [_Partition() for _ in range(partitions)]

    def records(self, topic: str) -> list[MemoryRecord]:
        """All records of a topic, by partition and offset."""
        return [record for partition in self._topics[topic] for record in partition.records]

    def append(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> MemoryRecord:
        """Write as some other producer would."""
        if partition is None:
            partition = 0 if key is None else partition_of(key, self.partitions(topic))
        lane = self._topics[topic][partition]
        self._clock_ms += 1
        record = MemoryRecord(topic, partition, lane.end, self._clock_ms, key, value, tuple(headers))
        lane.records.append(record)
        lane.end += 1
        self._arrived.set()
        self._arrived = asyncio.Event()
        return record

    def drop(self, topic: str, partition: int, offset: int) -> None:
        """Leave a hole in the offsets, as compaction and transaction markers do."""
        lane = self._topics[topic][partition]
        lane.records = [record for record in lane.records if record.offset != offset]

    def go_away(self) -> None:
        """Acknowledge, hand out and commit nothing until `come_back`."""
        self._present.clear()

    def come_back(self) -> None:
        """Answer again; what was sent meanwhile arrives."""
        self._present.set()

    def refuse_next(self, topic: str, error: KafkaError) -> None:
        """Fail the next batch of a topic with an error."""
        self._refusals.append((topic, error))

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""
        if topic not in self._topics:
            raise UnknownTopicOrPartitionError(topic)
        return len(self._topics[topic])

    # What the runtime asks of a broker.

    def producer(self, *, compression: str | None, batch_bytes_max: int) -> "MemoryProducer":
        """A producer; compression means nothing here."""
        del compression
        return MemoryProducer(self, batch_bytes_max)

    def consumer(self, settings: GroupSettings) -> "MemoryConsumer":
        """A group member or a reader."""
        return MemoryConsumer(self, settings)

    async def _accept(self, topic: str, partition: int, batch: "_MemoryBatch") -> int:
        await self._present.wait()
        for index, (refused, error) in enumerate(self._refusals):
            if refused == topic:
                del self._refusals[index]
                raise error
        if batch.size > (DEAD_LETTER_BYTES_MAX if topic.startswith(DEAD_LETTER_PREFIX) else MESSAGE_BYTES_MAX):
            raise MessageSizeTooLargeError
        first = self._topics[topic][partition].end
        for key, value, headers in batch.records:
            self.append(topic, key=key, value=value, headers=headers, partition=partition)
        return first


class _MemoryBatch:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.size = 0
        self.records: list[tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]] = []

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> object | None:
        del timestamp
        for part in (key, value):
            if part is not None and not isinstance(part, bytes):
                raise TypeError(f"Not supported type: {type(part)}")
        size = len(key or b"") + len(value or b"") + sum(len(name) + len(data or b"") for name, data in headers)
        if self.records and self.size + size > self._bytes_max:
            return None
        self.size += size
        self.records.append((key, value, headers))
        return self


class MemoryProducer:
    """Acknowledges in the loop's next round, one batch per partition at a time."""

    def __init__(self, log: MemoryLog, batch_bytes_max: int) -> None:
        self._log = log
        self._batch_bytes_max = batch_bytes_max
        self._sending: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def start(self) -> None:
        """Wait until the log is there."""
        await self._log._present.wait()

    async def stop(self) -> None:
        """As close, with all the time there is."""
        await self.close(60.0)

    async def close(self, flush_seconds: float) -> None:
        """Wait for what is on its way, then fail the rest."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=flush_seconds)
        self._closed = True
        for future in list(self._sending):
            future.cancel()

    async def partitions_for(self, topic: str) -> set[int]:
        """The partition numbers. Raises UnknownTopicOrPartitionError."""
        return set(range(self._log.partitions(topic)))

    def create_batch(self) -> _MemoryBatch:
        """An empty batch."""
        return _MemoryBatch(self._batch_bytes_max)

    def depart(self) -> None:
        """What was submitted is on its way already."""

    def submit(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """Begin to write a batch; the future resolves when it is written."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(KafkaError("the producer is closed"))
            return answer
        work = asyncio.ensure_future(self._log._accept(topic, partition, batch))
        self._sending.add(work)
        work.add_done_callback(self._sending.discard)

        def settle(done: asyncio.Future[Any]) -> None:
            if answer.done():
                return
            if done.cancelled():
                answer.set_exception(KafkaError("the producer was closed"))
            elif (error := done.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        work.add_done_callback(settle)
        return answer


class MemoryConsumer:
    """A group member or a reader of chosen partitions, with the traps of the real one left in."""

    def __init__(self, log: MemoryLog, settings: GroupSettings) -> None:
        self._log = log
        self.settings = settings
        self.topics: tuple[str, ...] = ()
        self.listener: Any = None
        self.assigned: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._settled = asyncio.Event()
        self._closed = False

    def subscribe(self, topics: Sequence[str], *, listener: Any) -> None:
        """Join the group for these topics when started."""
        self.topics, self.listener = tuple(topics), listener

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these, without a group."""
        self.set_assignment(set(partitions))

    async def start(self) -> None:
        """Join the group; partitions follow."""
        await self._log._present.wait()
        if self.topics and self.settings.group_id is not None:
            self._log.groups[self.settings.group_id].join(self)

    async def stop(self) -> None:
        """Leave the group. Nothing is committed."""
        self._closed = True
        if self.topics and self.settings.group_id is not None:
            await self._log.groups[self.settings.group_id].leave(self)
        self._settled.set()

    def begin_rebalance(self) -> None:
        """The group is being rebalanced: getmany waits."""
        self._settled.clear()

    def set_assignment(self, assigned: set[TopicPartition]) -> None:
        """The group's decision; positions start at what was committed, else at the earliest record."""
        committed = self._log.committed[self.settings.group_id or ""]
        self.assigned = assigned
        self._positions = {each: committed.get(each, 0) for each in assigned}
        self._settled.set()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Received]]:
        """What has arrived, waiting up to the timeout; all assigned partitions where none are named."""
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        while not self._closed:
            await self._settled.wait()
            arrived = self._log._arrived
            if self._log._present.is_set() and (taken := self._take(partitions, max_records)):
                return taken
            waits = arrived if self._log._present.is_set() else self._log._present
            try:
                async with asyncio.timeout_at(deadline):
                    await waits.wait()
            except TimeoutError:
                return {}
        raise ConsumerStoppedError

    def _take(
        self, partitions: Sequence[TopicPartition], max_records: int | None
    ) -> dict[TopicPartition, list[MemoryRecord]]:
        left = 10_000 if max_records is None else max_records
        taken: dict[TopicPartition, list[MemoryRecord]] = {}
        for partition in partitions or sorted(self.assigned):
            if partition not in self.assigned or left == 0:
                continue
            lane = self._log._topics[partition.topic][partition.partition]
            found = lane.from_offset(self._positions[partition], left)
            if found:
                taken[partition] = found
                self._positions[partition] = found[-1].offset + 1
                left -= len(found)
            else:  # a hole at the end is passed as well: the broker's empty batches say how far they reach
                self._positions[partition] = max(self._positions[partition], lane.end)
        return taken

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Store positions for the group. Raises IllegalStateError for a partition that is not ours."""
        await self._log._present.wait()
        if self._closed:
            raise AssertionError("a commit after stop() goes out with generation -1")
        for partition in offsets:
            if partition not in self.assigned:
                raise IllegalStateError(f"Partition {partition} is not assigned")
        self._log.committed[self.settings.group_id or ""].update(offsets)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at this offset."""
        if partition not in self.assigned:
            raise IllegalStateError(f"No current assignment for partition {partition}")
        self._positions[partition] = offset

    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool:
        """Go on at the earliest records."""
        for partition in partitions:
            self.seek(partition, 0)
        return True

    async def offsets_at(self, partitions: Sequence[TopicPartition], at_ms: int) -> Mapping[TopicPartition, int]:
        """The first offsets written at that time or later."""
        found: dict[TopicPartition, int] = {}
        for each in partitions:
            records = self._log._topics[each.topic][each.partition].records
            later = (record.offset for record in records if record.timestamp >= at_ms)
            if (first := next(later, None)) is not None:
                found[each] = first
        return found

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where the partitions end."""
        return {each: self._log._topics[each.topic][each.partition].end for each in partitions}

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are ours."""
        return set(self.assigned)

    async def learn_partitions(self, topic: str) -> set[int]:
        """The partition numbers of a topic; empty where there is none."""
        return set(range(len(self._log._topics.get(topic, ()))))

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end of a partition that is ours."""
        if partition not in self.assigned:
            return None
        end: int = self._log._topics[partition.topic][partition.partition].end
        return end

    def fetched_to(self, partition: TopicPartition) -> int | None:
        """The next offset to be handed out."""
        return self._positions.get(partition)

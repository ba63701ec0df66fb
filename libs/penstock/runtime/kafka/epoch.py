"""Owns one assignment of an in-flight consumer: its partitions, what runs, how far it is."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from penstock.runtime.clock import now_ms
from penstock.runtime.kafka.attempts import Outcome
from penstock.runtime.kafka.broker import Consumer
from penstock.runtime.kafka.frontier import Frontier
from penstock.runtime.kafka.lookback import Earlier
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.telemetry import Instruments

POLL_MS = 60_000
"""How long one poll waits for a record; nothing else wakes it, so an idle consumer costs nothing."""
COMMIT_SECONDS_MAX = 5.0
NOBODY = TopicPartition("penstock.nobody", 0)
"""A partition that is never assigned: polling it touches the consumer and takes no records."""


class Lane:
    """One partition: how far it is done."""

    __slots__ = ("frontier", "partition")

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.frontier = Frontier()


class Tally:
    """The instruments of one topic, looked up once."""

    def __init__(self, instruments: Instruments, group_id: str, topic: str) -> None:
        self._seconds = instruments.handler_seconds.labels(group_id, topic)
        self._handled = {outcome: instruments.handled.labels(group_id, topic, outcome) for outcome in Outcome}

    def count(self, outcome: Outcome, seconds: float) -> None:
        """One record is finished."""
        self._seconds.observe(seconds)
        self._handled[outcome].inc()


class Epoch:
    """Everything that ends when the partitions are revoked."""

    def __init__(self, assigned: Iterable[TopicPartition], topics: Sequence[str]) -> None:
        order = {topic: index for index, topic in enumerate(topics)}
        self.lanes = {partition: Lane(partition) for partition in assigned}
        self.partitions: list[list[TopicPartition]] = [[] for _ in topics]
        for partition in sorted(self.lanes):
            self.partitions[order[partition.topic]].append(partition)
        self.hungry = [asyncio.Event() for _ in topics]
        self.pollers: list[asyncio.Task[None]] = []
        self.tasks: dict[asyncio.Task[None], TopicPartition] = {}
        self.began_ms = now_ms()
        self.looked_back_to_ms: int | None = None
        self.answered: Earlier = {}
        """What was answered before this assignment."""
        self.closed = False
        self.closing: asyncio.Task[None] | None = None

    def oldest_new(self, fetched: Mapping[TopicPartition, Sequence[Received]]) -> int | None:
        """When the oldest of the first records of partitions was written; None where none is a partition's first."""
        firsts = [
            records[0].timestamp
            for partition, records in fetched.items()
            if records and self.lanes[partition].frontier.position is None
        ]
        return min(firsts, default=None)

    def uncommitted(self) -> dict[TopicPartition, int]:
        """Positions that moved since they were committed."""
        return {
            partition: position
            for partition, lane in self.lanes.items()
            if (position := lane.frontier.uncommitted) is not None
        }

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """These positions are committed."""
        for partition, position in offsets.items():
            self.lanes[partition].frontier.committed = position

    def lag(self, group_id: str, consumer: Consumer) -> dict[tuple[str, str, int], int]:
        """Records not finished, by (group, topic, partition); read by the metrics thread, so on copies."""
        lags: dict[tuple[str, str, int], int] = {}
        for partition, lane in list(self.lanes.items()):
            end = consumer.highwater(partition)
            position = lane.frontier.position
            if position is None:
                position = consumer.fetched_to(partition)
            if end is not None and position is not None:
                lags[group_id, partition.topic, partition.partition] = max(0, end - position)
        return lags

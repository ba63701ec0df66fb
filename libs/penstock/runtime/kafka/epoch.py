"""Owns one assignment of an in-flight consumer: its partitions, the records on their way, how far it is."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextvars import Context
from typing import Any, Protocol

from penstock.contracts.envelope import Outgoing
from penstock.runtime.clock import now_ms
from penstock.runtime.kafka.attempts import Outcome
from penstock.runtime.kafka.broker import Consumer
from penstock.runtime.kafka.frontier import Frontier
from penstock.runtime.kafka.lookback import Earlier
from penstock.runtime.kafka.records import Received, TopicPartition

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


class Delivery:
    """One record on its way, from its queue to the acknowledgement of its outputs.

    `key` is what it is known by while it is handled; None where nothing is handled. `holds_place`: it is one of the
    bounded number whose handlers run. `over`: nothing more happens to it.
    """

    __slots__ = ("began", "epoch", "holds_place", "key", "lane", "outcome", "outputs", "over", "record")

    def __init__(self, epoch: "Epoch", lane: Lane, record: Received, began: float) -> None:
        self.epoch = epoch
        self.lane = lane
        self.record = record
        self.began = began
        self.key: str | None = None
        self.outputs: Sequence[Outgoing] = ()
        self.outcome = Outcome.DONE
        self.holds_place = True
        self.over = False


class Host(Protocol):
    """What a consumer does for those who handle its records."""

    @property
    def context(self) -> Context:
        """What tasks and callbacks run in, whoever starts them: nothing of one record reaches another."""
        ...

    def spawn(self, delivery: Delivery, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run what a record needs, in a task of its own; more than one record where it goes on to the next."""
        ...

    def finished(self, deliveries: Sequence[Delivery]) -> None:
        """These need nothing more."""
        ...

    def fail(self, error: BaseException) -> None:
        """The consumer cannot go on."""
        ...


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
        self.open = 0
        """Records taken and not over."""
        self.tasks: dict[asyncio.Task[None], Delivery | None] = {}
        """The record that each is to begin, or waits with."""
        self.runners: set[asyncio.Task[None]] = set()
        """Those that go on to the next record."""
        self.began_ms = now_ms()
        self.looked_back_to_ms: int | None = None
        self.answered: Earlier = {}
        """What was answered before this assignment."""
        self.closed = False
        self.closing: asyncio.Task[None] | None = None
        self._emptied: asyncio.Future[None] | None = None

    def emptied(self) -> "asyncio.Future[None]":
        """Done as soon as nothing is open."""
        if self._emptied is None:
            self._emptied = asyncio.get_running_loop().create_future()
            if not self.open:
                self._emptied.set_result(None)
        return self._emptied

    def over(self, delivery: "Delivery") -> None:
        """One record is on its way no more."""
        delivery.over = True
        self.open -= 1
        if not self.open and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

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

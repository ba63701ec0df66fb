"""Owns what an in-flight consumer has fetched and not begun: which record is next, and how many more it asks for."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from penstock.runtime.kafka.epoch import Lane
from penstock.runtime.kafka.records import Received

BUFFERED_MAX = 256
"""Records of a topic that wait in memory for a handler; once it is reached, the topic is polled at half of it."""

Waiting = tuple[Lane, Received]


class Queue(Protocol):
    """Chooses the next record. Topics go by their place in the consumer's list; all calls come from one loop.

    A queue may keep a record back though there are handlers to spare, and calls `wake` once it would give it. What it
    gives may be another `Received` than it was offered, with the same topic, partition and offset.
    """

    def bind(self, wake: Callable[[], None], hungry: Callable[[int], None]) -> None:
        """Called once. `wake` makes the consumer take again; `hungry` makes it poll a topic that had no room."""
        ...

    def offer(self, topic: int, lane: Lane, record: Received) -> None:
        """A record was fetched. Those of a partition come in the order of their offsets."""
        ...

    def take(self) -> Waiting | None:
        """The record to begin now; None where there is none, or none may begin."""
        ...

    def freed(self, record: Received) -> None:
        """The handler of a record that was taken has returned, or never ran."""
        ...

    def room(self, topic: int) -> int:
        """How many records of a topic to ask for; 0 for none until `hungry`."""
        ...

    def clear(self) -> None:
        """The partitions are somebody else's: what waits is forgotten. What was taken is still freed one by one."""
        ...

    def __len__(self) -> int:
        """Records that wait. Also read by the thread that serves metrics."""
        ...


class UrgentFirst:
    """The default: the most urgent topic that has a record, in the order in which they came."""

    def __init__(self, topics: int) -> None:
        self._buffers: list[deque[Waiting]] = [deque() for _ in range(topics)]
        self._hungry: Callable[[int], None] = _nobody

    def bind(self, wake: Callable[[], None], hungry: Callable[[int], None]) -> None:
        """It keeps nothing back, so that it never wakes anybody."""
        del wake
        self._hungry = hungry

    def offer(self, topic: int, lane: Lane, record: Received) -> None:
        """At the end of its topic."""
        self._buffers[topic].append((lane, record))

    def take(self) -> Waiting | None:
        """The first of the most urgent topic that has one."""
        for topic, buffer in enumerate(self._buffers):
            if buffer:
                taken = buffer.popleft()
                if len(buffer) == BUFFERED_MAX // 2:
                    self._hungry(topic)
                return taken
        return None

    def freed(self, record: Received) -> None:
        """Nothing hangs on it."""

    def room(self, topic: int) -> int:
        """A whole buffer where there is any room at all: polls are worth more when they are large."""
        return BUFFERED_MAX if len(self._buffers[topic]) < BUFFERED_MAX else 0

    def clear(self) -> None:
        """Forget all."""
        for buffer in self._buffers:
            buffer.clear()

    def __len__(self) -> int:
        return sum(map(len, self._buffers))


def _nobody(topic: int) -> None:
    """Whom a queue tells before it is bound."""

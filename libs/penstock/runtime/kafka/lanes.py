"""Owns one partition's records on their way out: what waits, what travels, and whom it is accounted to."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from penstock.contracts.envelope import Outgoing
from penstock.runtime.errors import NotAcknowledged


class Ticket:
    """One call of send: how many of its records are open, which were given up on."""

    __slots__ = ("failed", "future", "open", "permanent", "reason")

    def __init__(self, count: int, future: "asyncio.Future[None]") -> None:
        self.open = count
        self.future = future
        self.failed: list[Outgoing] = []
        self.reason = ""
        self.permanent = True

    def settle(self, count: int) -> None:
        """So many of its records are acknowledged or given up on."""
        self.open -= count
        if self.open == 0 and not self.future.done():
            if self.failed:
                self.future.set_exception(NotAcknowledged(self.failed, self.reason, permanent=self.permanent))
            else:
                self.future.set_result(None)

    def fail(self, record: Outgoing, reason: str, *, permanent: bool) -> None:
        """This record is given up on."""
        self.failed.append(record)
        self.reason = reason
        self.permanent = self.permanent and permanent
        self.settle(1)


Entry = tuple[Outgoing, int, Ticket, float]
"""A record, its size in bytes, whose it is, until when it is tried (loop time)."""


def settle(entries: Sequence[Entry]) -> int:
    """Tell whose they are that all these are acknowledged; their bytes. Records of one send lie side by side."""
    freed = count = 0
    settled = entries[0][2]
    for _, size, ticket, _ in entries:
        freed += size
        if ticket is not settled:
            settled.settle(count)
            settled, count = ticket, 0
        count += 1
    settled.settle(count)
    return freed


class Lane:
    """One partition's queue, and at most one batch on its way.

    `waiting` says that it is in line for its next batch; `one_by_one` counts records to send alone, to find the one
    that is refused.
    """

    __slots__ = ("_deadline", "one_by_one", "partition", "queue", "sending", "sent", "topic", "waiting")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.queue: deque[Entry] = deque()
        self.sent: list[Entry] = []
        self.sending: asyncio.Future[Any] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.waiting = False
        self.one_by_one = 0

    def departed(self, entries: list[Entry], sending: "asyncio.Future[Any]") -> None:
        """These are on their way, for no longer than the first of them may be."""
        self.sent, self.sending = entries, sending
        self._deadline = asyncio.get_running_loop().call_at(entries[0][3], sending.cancel)

    def landed(self) -> None:
        """Nothing is on its way any more."""
        self.sent, self.sending = [], None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def take_back(self) -> None:
        """What was on its way is first in the queue again."""
        self.queue.extendleft(reversed(self.sent))
        self.landed()

"""Owns consumer groups of the in-memory log: eager rebalances, the range assignor, the drain budget."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from penstock.runtime.kafka.broker import GroupSettings
from penstock.runtime.kafka.records import TopicPartition


class Member(Protocol):
    """What a group knows of a consumer."""

    settings: GroupSettings
    topics: tuple[str, ...]
    listener: Any
    assigned: set[TopicPartition]

    def begin_rebalance(self) -> None: ...
    def set_assignment(self, assigned: set[TopicPartition]) -> None: ...


class MemoryGroup:
    """Members in the order they joined. A rebalance revokes everything everywhere, then assigns anew."""

    def __init__(self, partitions: Callable[[str], int]) -> None:
        self._partitions = partitions
        self.members: list[Member] = []
        self._changed = asyncio.Event()
        self._rebalancing: asyncio.Task[None] | None = None

    def join(self, member: Member) -> None:
        """Take part from the next rebalance on."""
        self.members.append(member)
        self._changed.set()
        if self._rebalancing is None or self._rebalancing.done():
            self._rebalancing = asyncio.create_task(self._rebalance())

    async def leave(self, member: Member) -> None:
        """The others take over. As with the real one, the leaving member's listener is not told."""
        if member in self.members:
            self.members.remove(member)
            member.assigned = set()
            self._changed.set()
            if self.members and (self._rebalancing is None or self._rebalancing.done()):
                self._rebalancing = asyncio.create_task(self._rebalance())

    async def _rebalance(self) -> None:
        while self._changed.is_set():
            self._changed.clear()
            members = list(self.members)
            for member in members:
                member.begin_rebalance()
            await asyncio.gather(*(self._revoke(member) for member in members))
            if self._changed.is_set():
                continue
            for member, assigned in self._range(members).items():
                member.set_assignment(assigned)
                await member.listener.on_partitions_assigned(set(assigned))

    @staticmethod
    async def _revoke(member: Member) -> None:
        # One that drains for longer is thrown out by the real coordinator; here the others just stop waiting.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(member.settings.rebalance_seconds):
                await member.listener.on_partitions_revoked(set(member.assigned))

    def _range(self, members: list[Member]) -> dict[Member, set[TopicPartition]]:
        assigned: dict[Member, set[TopicPartition]] = {member: set() for member in members}
        for topic in sorted({topic for member in members for topic in member.topics}):
            takers = [member for member in members if topic in member.topics]
            count, extra = divmod(self._partitions(topic), len(takers))
            start = 0
            for index, member in enumerate(takers):
                end = start + count + (1 if index < extra else 0)
                assigned[member] |= {TopicPartition(topic, number) for number in range(start, end)}
                start = end
        return assigned

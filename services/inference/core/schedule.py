"""Owns which waiting request is next: lanes with guaranteed shares; within a lane those at risk, then tenants in turn.

Lanes. The urgent lane goes first, but each lower lane that has something waiting is owed its share of every token that
is given to another lane, and goes first once it is owed its head. A lane that was empty is owed nothing: nobody saves
up. A head that does not fit keeps everybody waiting who would pass it (else the large would starve), except when it is
only its share's turn and it is owed less than twice: then the others go on, and it waits for room.

Within a lane. A request is at risk when less than its own service time is left until it had to begin. Of those the one
with the least slack goes first. One that can no longer make it has no such claim: it would take the place of one that
can. All others go by deficit round robin over tenants, counted in tokens (Shreedhar and Varghese 1995, doi
10.1145/217382.217453), with a quantum of the lane's largest request, so that a choice costs O(1), and with the list of
new flows of fq_codel (RFC 8290): who has had nothing waiting is served one quantum before those that always have.
What is taken at risk is paid from the tenant's deficit too, down to two quanta: tight deadlines buy no more tokens.

An offer costs O(log n), a choice O(1) on average and O(log n) where requests have come to be at risk.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, Generic, TypeVar

from penstock.contracts.messages import Lane
from services.inference.core.lanes import URGENT_FIRST

T = TypeVar("T")

SHARES: Final[Mapping[Lane, float]] = {Lane.STANDARD: 0.2, Lane.BATCH: 0.1}
"""What of the tokens a lane gets at least while it has something waiting."""
DEBT_QUANTA_MAX: Final = 2
STALE_MAX: Final = 64


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """A request that waits. `cost` in tokens, at least 1; times in milliseconds, `service_ms` as predicted."""

    item: T
    lane: Lane
    tenant: str
    cost: int
    deadline_ms: float
    service_ms: float
    taken: bool = False


@dataclass(slots=True, eq=False)
class _Tenant(Generic[T]):
    name: str
    queue: deque[Waiting[T]] = field(default_factory=deque)
    waiting: int = 0
    deficit: int = 0


class _Soonest(Generic[T]):
    """Requests by a time; those that were taken otherwise are dropped when they come up, or outnumber the rest."""

    __slots__ = ("_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiting[T]]] = []
        self._number = 0

    def push(self, at_ms: float, waiting: Waiting[T], alive: int) -> None:
        self._number += 1
        heappush(self._heap, (at_ms, self._number, waiting))
        if len(self._heap) > 2 * alive + STALE_MAX:
            self._heap = [entry for entry in self._heap if not entry[2].taken]
            heapify(self._heap)

    def first(self) -> Waiting[T] | None:
        while self._heap and self._heap[0][2].taken:
            heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def clear(self) -> None:
        self._heap.clear()

    @property
    def at_ms(self) -> float:
        """Before this nothing comes due."""
        return self._heap[0][0] if self._heap else inf

    def until(self, now_ms: float) -> Iterator[Waiting[T]]:
        """Takes out what has come due."""
        while self._heap and (self._heap[0][0] <= now_ms or self._heap[0][2].taken):
            waiting = heappop(self._heap)[2]
            if not waiting.taken:
                yield waiting


class _LaneQueue(Generic[T]):
    """One lane."""

    def __init__(self, share: float) -> None:
        self.share: Final = share
        self.owed = 0.0
        self.count = 0
        self.tokens = 0
        self._quantum = 1
        self._tenants: Final[dict[str, _Tenant[T]]] = {}
        self._fresh: Final[deque[_Tenant[T]]] = deque()
        self._old: Final[deque[_Tenant[T]]] = deque()
        self._safe: Final = _Soonest[T]()
        self._at_risk: Final = _Soonest[T]()
        self._late: Final = _Soonest[T]()
        self._quiet_until_ms = inf
        """Before this nobody's deadline is near who waits."""

    def _forget(self) -> None:
        """Nobody waits: who comes next is new, and owed nothing."""
        self.owed = 0.0
        self.count = self.tokens = 0
        self._quantum = 1
        for kept in (self._tenants, self._fresh, self._old, self._safe, self._at_risk, self._late):
            kept.clear()
        self._quiet_until_ms = inf

    def has(self, tenant: str) -> bool:
        return (found := self._tenants.get(tenant)) is not None and found.waiting > 0

    def offer(self, waiting: Waiting[T]) -> None:
        tenant = self._tenants.get(waiting.tenant)
        self._quantum = max(self._quantum, waiting.cost)
        if tenant is None:
            tenant = self._tenants[waiting.tenant] = _Tenant(waiting.tenant, deficit=self._quantum)
            self._fresh.append(tenant)
        tenant.queue.append(waiting)
        tenant.waiting += 1
        self.count += 1
        self.tokens += waiting.cost
        at_ms = waiting.deadline_ms - 2 * waiting.service_ms
        self._safe.push(at_ms, waiting, self.count)
        self._quiet_until_ms = min(self._quiet_until_ms, at_ms)

    def lapsed(self, now_ms: float) -> Waiting[T] | None:
        """One whose deadline has passed, after moving everything to where it belongs by now."""
        if now_ms < self._quiet_until_ms:
            return None
        for waiting in self._safe.until(now_ms):
            self._at_risk.push(waiting.deadline_ms - waiting.service_ms, waiting, self.count)
        for waiting in self._at_risk.until(now_ms):
            self._late.push(waiting.deadline_ms, waiting, self.count)
        first = self._late.first()
        self._quiet_until_ms = min(self._safe.at_ms, self._at_risk.at_ms, self._late.at_ms)
        return first if first is not None and first.deadline_ms <= now_ms else None

    def head(self) -> Waiting[T] | None:
        """The next one; the same until something is offered, taken, or comes to be at risk."""
        urgent = self._at_risk.first()
        if urgent is not None and self._tenants[urgent.tenant].deficit > -DEBT_QUANTA_MAX * self._quantum:
            return urgent
        while ring := self._fresh or self._old:
            tenant = ring[0]
            if tenant.waiting == 0:
                ring.popleft()
                if ring is self._fresh:
                    self._old.append(tenant)  # not forgotten yet: else coming and going would always be new
                else:
                    del self._tenants[tenant.name]
            elif tenant.deficit <= 0:
                ring.popleft()
                tenant.deficit += self._quantum
                self._old.append(tenant)
            else:
                while tenant.queue[0].taken:
                    tenant.queue.popleft()
                return tenant.queue[0]
        return None

    def take(self, waiting: Waiting[T], *, charged: bool) -> None:
        tenant = self._tenants[waiting.tenant]
        waiting.taken = True
        tenant.waiting -= 1
        if charged:
            tenant.deficit -= waiting.cost
        if tenant.waiting == 0:
            tenant.queue.clear()
        self.count -= 1
        self.tokens -= waiting.cost
        if self.count == 0:
            self._forget()


class Schedule(Generic[T]):
    """What waits for one engine."""

    def __init__(self, shares: Mapping[Lane, float] = SHARES) -> None:
        self._shares: Final = shares
        self._lanes: dict[Lane, _LaneQueue[T]] = {}
        self.clear()

    def clear(self) -> None:
        """Nothing waits any more."""
        self._lanes = {lane: _LaneQueue[T](self._shares.get(lane, 0.0)) for lane in URGENT_FIRST}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def count(self, lane: Lane) -> int:
        """Requests of a lane that wait."""
        return self._lanes[lane].count

    def tokens(self, lane: Lane) -> int:
        """Their cost, all together."""
        return self._lanes[lane].tokens

    def waits(self, lane: Lane, tenant: str) -> bool:
        """Whether a tenant has anything waiting in a lane."""
        return self._lanes[lane].has(tenant)

    def offer(self, waiting: Waiting[T]) -> None:
        """One more. Those of a tenant in a lane are taken in the order of their offers, unless at risk."""
        self._lanes[waiting.lane].offer(waiting)
        self._count += 1

    def withdraw(self, waiting: Waiting[T]) -> None:
        """One that waits is taken out before its turn."""
        if not waiting.taken:
            self._lanes[waiting.lane].take(waiting, charged=False)
            self._count -= 1

    def take(self, now_ms: float, fits: Callable[[Waiting[T]], bool]) -> Waiting[T] | None:
        """The next one, taken out; None where nothing waits, or the next does not fit.

        One whose deadline has passed comes first and is not asked to fit: it needs no engine.
        """
        lanes = [lane for lane in self._lanes.values() if lane.count]
        for lane in lanes:
            lapsed = lane.lapsed(now_ms)
            if lapsed is not None:
                lane.take(lapsed, charged=False)
                self._count -= 1
                return lapsed
        skipped = None
        due = _due(lanes) if len(lanes) > 1 else None
        if due is not None:
            lane, head = due
            if fits(head):
                return self._taken(lane, head)
            if lane.owed >= 2 * head.cost:
                return None
            skipped = lane
        for lane in lanes:
            if lane is skipped:
                continue
            first = lane.head()
            assert first is not None
            return self._taken(lane, first) if fits(first) else None
        return None

    def _taken(self, lane: _LaneQueue[T], head: Waiting[T]) -> Waiting[T]:
        for other in self._lanes.values():
            if other is not lane and other.count:
                other.owed += other.share * head.cost
        lane.owed = max(0.0, lane.owed - (1 - lane.share) * head.cost)
        lane.take(head, charged=True)
        self._count -= 1
        return head


def _due(lanes: Iterable[_LaneQueue[T]]) -> tuple[_LaneQueue[T], Waiting[T]] | None:
    """The lane that is owed its head, if any: the one that is owed the most of it."""
    due: tuple[_LaneQueue[T], Waiting[T]] | None = None
    most = 1.0
    for lane in lanes:
        if lane.owed > 0.0 and (head := lane.head()) is not None:
            times = lane.owed / ((1 - lane.share) * head.cost)
            if times >= most:
                due, most = (lane, head), times
    return due

"""Owns the order in which one instance takes what it has fetched: each engine's own, as far as its gate is open.

Fetched is what is likely to begin within seconds; the rest stays in Kafka. There is one exception: tenants can share
only what is fetched, so where a tenant that was heard of lately has nothing at hand while another's backlog fills the
lane, it is read on, up to a bound, for what may lie behind the backlog.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final
from uuid import UUID

from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.kafka.epoch import Lane as PartitionLane
from penstock.runtime.kafka.records import Received
from penstock.runtime.kafka.waiting import Waiting
from services.inference.core.lanes import URGENT_FIRST
from services.inference.station import Stations
from services.inference.tickets import Reader, Ticket

POLLED_MAX: Final = 256
"""Records of one poll: they are read in one go, and nobody else's answer moves on meanwhile."""
AHEAD_RECORDS_MAX: Final = 8192
AHEAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""What a lane holds at most where it is read ahead for the tenants' sake."""
TENANTS_MAX: Final = 1024
LATELY_MS: Final = 600_000


class _LaneWindow:
    """What of one lane is at hand."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        self.count = 0
        self.bytes = 0
        self._heard: OrderedDict[str, int] = OrderedDict()

    def arrived(self, tenant: str, size: int, now_ms: int) -> None:
        self.waiting[tenant] = self.waiting.get(tenant, 0) + 1
        self.count += 1
        self.bytes += size
        self._heard[tenant] = now_ms
        self._heard.move_to_end(tenant)
        while len(self._heard) > TENANTS_MAX or now_ms - next(iter(self._heard.values())) > LATELY_MS:
            self._heard.popitem(last=False)

    def left(self, tenant: str, size: int) -> None:
        self.count -= 1
        self.bytes -= size
        others = self.waiting[tenant] - 1
        if others:
            self.waiting[tenant] = others
        else:
            del self.waiting[tenant]

    def clear(self) -> None:
        self.waiting.clear()
        self.count = self.bytes = 0

    def room(self, soon: int) -> int:
        """How many more are worth fetching, where `soon` are likely to begin soon."""
        if self.count <= soon // 2:
            return min(POLLED_MAX, soon - self.count)
        someone_missing = len(self._heard) > len(self.waiting)
        if someone_missing and self.count < AHEAD_RECORDS_MAX and self.bytes < AHEAD_BYTES_MAX:
            return min(POLLED_MAX, AHEAD_RECORDS_MAX - self.count)
        return 0


class EngineQueue:
    """The queue of one instance's consumer, whose topics are the lanes of a pool, urgent first.

    Who is cancelled while it waits, or was before, has no turn to wait for: it is given at once, to be answered.
    """

    def __init__(
        self,
        stations: Stations,
        reader: Reader,
        cancellations: Cancellations,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._stations: Final = tuple(stations)
        self._reader: Final = reader
        self._now_ms: Final = now_ms
        self._clock: Final = clock
        self._windows: Final = [_LaneWindow() for _ in URGENT_FIRST]
        self._partitions: Final[dict[Ticket, PartitionLane]] = {}
        self._by_request: Final[dict[int, Ticket]] = {}
        """Those that wait for an engine; of two deliveries of a request, the first."""
        self._at_once: Final[deque[Ticket]] = deque()
        self._full: Final[set[int]] = set()
        self._turn = 0
        self._refused = False
        """No engine has a place for its next; so it stays until one leaves, or another comes."""
        self._wake: Callable[[], None] = lambda: None
        self._hungry: Callable[[int], None] = lambda _: None
        self._cancellations: Final = cancellations
        cancellations.listen(self._cancelled)

    def bind(self, wake: Callable[[], None], hungry: Callable[[int], None]) -> None:
        """A gate opens when a place is freed, and then the consumer asks anyway: it is woken for what is cancelled."""
        self._wake = wake
        self._hungry = hungry

    def offer(self, topic: int, lane: PartitionLane, record: Received) -> None:
        """Read, and put where it belongs: before its engine's gate, or at once where no engine is asked."""
        self._refused = False
        ticket = self._reader.ticket(record)
        ticket.lane, ticket.topic_index = URGENT_FIRST[topic], topic
        self._partitions[ticket] = lane
        if ticket.fault is not None or ticket.station is None:
            self._give_at_once(ticket)
            return
        request = ticket.work.request
        if self._cancellations.told(request.request_id):
            self._give_at_once(ticket)
            return
        self._windows[topic].arrived(request.tenant, _size(ticket), self._now_ms())
        self._by_request.setdefault(request.request_id.int, ticket)
        ticket.station.gate.offer(ticket)

    def take(self) -> Waiting | None:
        """The next record of any engine that has a place for its next."""
        if self._refused or not self._partitions:
            return None
        if self._at_once:
            ticket = self._at_once.popleft()
            self._windows[ticket.topic_index].count -= 1
            self._tell(ticket.topic_index)
            return self._partitions.pop(ticket), ticket
        now_ms, clock = self._now_ms(), self._clock()
        for _ in self._stations:
            station = self._stations[self._turn]
            self._turn = (self._turn + 1) % len(self._stations)
            taken = station.gate.take(now_ms, clock) if len(station.gate.schedule) else None
            if taken is not None:
                self._left(taken)
                return self._partitions.pop(taken), taken
        self._refused = True
        return None

    def freed(self, record: Received) -> None:
        """Its place goes to the next."""
        self._refused = False
        if isinstance(record, Ticket) and record.station is not None:
            record.station.gate.freed(record)

    def room(self, topic: int) -> int:
        """As many as are likely to begin soon, or more for the sake of tenants that have nothing at hand."""
        room = self._windows[topic].room(self._soon())
        if room <= 0:
            self._full.add(topic)
        return room

    def clear(self) -> None:
        """Others have the partitions."""
        for station in self._stations:
            station.gate.schedule.clear()
        for window in self._windows:
            window.clear()
        self._at_once.clear()
        self._partitions.clear()
        self._by_request.clear()
        self._full.clear()

    def __len__(self) -> int:
        return len(self._partitions)

    def _soon(self) -> int:
        return sum(station.gate.soon for station in self._stations)

    def _give_at_once(self, ticket: Ticket) -> None:
        self._refused = False
        self._windows[ticket.topic_index].count += 1
        self._at_once.append(ticket)

    def _cancelled(self, request_id: UUID) -> None:
        """If it waits for an engine here, it does so no longer."""
        ticket = self._by_request.get(request_id.int)
        if ticket is None or ticket.station is None:
            return
        ticket.station.gate.withdraw(ticket)
        self._left(ticket)
        self._give_at_once(ticket)
        self._wake()

    def _left(self, ticket: Ticket) -> None:
        """It waits for its engine no more."""
        request = ticket.work.request
        if self._by_request.get(request.request_id.int) is ticket:
            del self._by_request[request.request_id.int]
        self._windows[ticket.topic_index].left(request.tenant, _size(ticket))
        self._tell(ticket.topic_index)

    def _tell(self, topic: int) -> None:
        if self._full and topic in self._full and self._windows[topic].room(self._soon()) > 0:
            self._full.discard(topic)
            self._hungry(topic)


def _size(ticket: Ticket) -> int:
    return len(ticket.value or b"")

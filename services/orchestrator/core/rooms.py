"""Owns what is known of engines' room, as they report it: who takes work, how long a call would wait, who is crowded.

It has no clock: reports carry times, and so do the events that look at them. An instance keeps it in memory and reads
the reports that are still valid when it starts. A route is crowded while calls there would wait too long:

    free ── the predicted wait passes the lane's threshold ──▶ crowded
    crowded ── it falls below `leave_share` of that ──▶ free;   neither before `dwell_seconds` in the state are over

    wait = (calls ahead + 1 - places) · tokens per call / best tokens per second;   service = places · the same

Calls ahead are those of the same and of more urgent lanes: engines take them first. Places are the requests that are
worth having in flight, or fit into the caches.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock.contracts.messages import CapacityReported, Lane
from penstock.workflow.tiers import Burst

SECOND_MS: Final = 1_000
URGENT_FIRST: Final = (Lane.INTERACTIVE, Lane.STANDARD, Lane.BATCH)
LANES: Final = len(URGENT_FIRST)


class Room(NamedTuple):
    """What the engines of a pool say together that have one model. Times in milliseconds; None: nobody knows."""

    engines: int
    """Those that take work."""
    in_flight: int
    """Requests in them or fetched for them."""
    places: int | None
    token_ms: float | None
    """How long one token takes, when all work their best."""
    call_tokens: float | None

    def wait_ms(self, ahead: int) -> int | None:
        """How long a call waits with so many ahead of it."""
        if self.places is None or self.token_ms is None or self.call_tokens is None:
            return None
        return max(0, round((ahead + 1 - self.places) * self.call_tokens * self.token_ms))

    @property
    def service_ms(self) -> int:
        """How long a call takes in a full engine; 0 where nobody knows."""
        return round((self.places or 0) * (self.call_tokens or 0.0) * (self.token_ms or 0.0))


class Crowd(NamedTuple):
    """How a route looks to a call. `changed`: it was not so before, which is to be remembered."""

    crowded: bool
    changed: bool
    wait_ms: int


FREE: Final = Crowd(False, False, 0)
"""Also where nobody knows."""

CrowdKey = tuple[str, str, Lane]
"""(label, thresholds, lane)."""
CrowdState = tuple[bool, int]
"""(crowded, since_ms)."""


@dataclass(frozen=True, slots=True)
class _Report:
    labels: tuple[str, ...]
    message: CapacityReported
    expires_ms: int


class Rooms:
    """The last report of each engine that is still valid, added up by route."""

    __slots__ = ("_call_tokens", "_expires_ms", "_reports", "_rooms", "_states")

    def __init__(self) -> None:
        self._reports: Final[dict[str, _Report]] = {}
        self._rooms: Final[dict[str, Room]] = {}
        self._call_tokens: Final[dict[str, float]] = {}
        """The last known, by route: engines that idle say nothing about it."""
        self._states: Final[dict[CrowdKey, CrowdState]] = {}
        self._expires_ms = 0
        """When the first of the reports does."""

    def find(self, label: str) -> Room | None:
        """What is known of a route; None where no report is valid."""
        return self._rooms.get(label)

    def take(self, message: CapacityReported, at_ms: int) -> set[str]:
        """A report; the routes that it tells of. The last one of an engine counts, until it expires."""
        labels = tuple(f"{message.pool}/{model}" for model in message.models)
        before = self._reports.pop(message.engine, None)
        expires_ms = round(message.expires_at.timestamp() * 1000)
        if expires_ms > at_ms:
            self._reports[message.engine] = _Report(labels, message, expires_ms)
        touched = {*labels, *(before.labels if before is not None else ())}
        self._add_up(touched)
        return touched

    def expire(self, at_ms: int) -> set[str]:
        """Forgets what is not valid any more, as of an engine that died; the routes of which less is known now."""
        if at_ms < self._expires_ms or not self._reports:
            return set()
        expired = [engine for engine, report in self._reports.items() if report.expires_ms <= at_ms]
        labels = {label for engine in expired for label in self._reports.pop(engine).labels}
        self._add_up(labels)
        return labels

    def crowd(self, label: str, burst: Burst, key: str, lane: Lane, ahead: int, at_ms: int) -> Crowd:
        """How a route looks to a call of a lane with so many calls ahead of it."""
        room = self._rooms.get(label)
        wait_ms = None if room is None else room.wait_ms(ahead)
        threshold_ms = _threshold_ms(burst, lane)
        if wait_ms is None:
            return FREE
        if threshold_ms is None:
            return Crowd(False, False, wait_ms)
        crowded, since_ms = self._states.get((label, key, lane), (False, None))
        limit_ms = threshold_ms * burst.leave_share if crowded else threshold_ms
        rested = since_ms is None or at_ms - since_ms >= burst.dwell_seconds * SECOND_MS
        if rested and (wait_ms > limit_ms) is not crowded:
            return Crowd(not crowded, True, wait_ms)
        return Crowd(crowded, False, wait_ms)

    def remember(self, key: CrowdKey, state: CrowdState | None) -> CrowdState | None:
        """A route is crowded or free from now on; what it was. None: nothing is known."""
        before = self._states.pop(key, None)
        if state is not None:
            self._states[key] = state
        return before

    def _add_up(self, labels: set[str]) -> None:
        self._expires_ms = min((report.expires_ms for report in self._reports.values()), default=0)
        for label in labels:
            messages = [report.message for report in self._reports.values() if label in report.labels]
            if not messages:
                self._rooms.pop(label, None)
                continue
            up = [message for message in messages if message.health.state == "up"]
            requests = sum(message.requests_in_flight + message.requests_waiting for message in up)
            tokens = sum(message.tokens_in_flight + message.tokens_waiting for message in up)
            if requests and tokens:
                self._call_tokens[label] = tokens / requests
            self._rooms[label] = _room(up, requests, self._call_tokens.get(label))


def _room(up: list[CapacityReported], requests: int, call_tokens: float | None) -> Room:
    # Engines that have not worked enough to know are taken to be like the others.
    places = [places for message in up if (places := _places(message, call_tokens)) is not None]
    speeds = [message.tokens_per_second_best for message in up if message.tokens_per_second_best]
    return Room(
        engines=len(up),
        in_flight=requests,
        places=round(sum(places) / len(places) * len(up)) if places else None,
        token_ms=SECOND_MS / (sum(speeds) / len(speeds) * len(up)) if speeds else None,
        call_tokens=call_tokens,
    )


def _places(message: CapacityReported, call_tokens: float | None) -> int | None:
    """How many requests an engine is best at, or has room for."""
    fitting = None
    if message.kv_tokens_max is not None and call_tokens:
        fitting = max(1, int(message.kv_tokens_max / call_tokens))
    known = [places for places in (message.requests_best, fitting) if places is not None]
    return min(known, default=None)


def _threshold_ms(burst: Burst, lane: Lane) -> float | None:
    match lane:
        case Lane.INTERACTIVE:
            return burst.wait_seconds * SECOND_MS
        case Lane.STANDARD:
            return burst.standard_wait_seconds * SECOND_MS
        case Lane.BATCH:
            return None  # it has time; only its deadline makes it go elsewhere

"""Owns what is known of routes: how their last calls went, which are left alone, what is in flight; and their rooms.

It has no clock: it is driven by the times of events, so that the same events lead to the same state. It is kept in
memory by each instance of the orchestrator, from the outcomes that it sees; a restart begins with all routes closed.

    closed ── too many of the last calls failed or were slow ──▶ open ── open_seconds later ──▶ half open
    half open ── all probes went well ──▶ closed;  half open ── one did not ──▶ open
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal, NamedTuple

from penstock.contracts.messages import Lane
from penstock.workflow.tiers import Breaker, Burst, Price, Route
from services.orchestrator.core.rooms import FREE, LANES, URGENT_FIRST, Crowd, CrowdKey, CrowdState, Room, Rooms

SECOND_MS = 1_000


@dataclass(frozen=True, slots=True)
class TierRoute:
    """A route of a tier, compiled. Calls in flight are counted by `label`, outcomes by `key`: label and breaker."""

    pool: str
    model: str
    price: Price | None
    in_flight_max: int | None
    breaker: Breaker
    label: str
    key: str
    burst: Burst | None = None
    burst_key: str = ""


def tier_route(route: Route, breaker: Breaker, burst: Burst | None = None) -> TierRoute:
    """The route with its names."""
    label = f"{route.pool}/{route.model}"
    key = label if breaker == Breaker() else f"{label} {breaker.model_dump_json(exclude_defaults=True)}"
    burst_key = "" if burst is None else burst.model_dump_json(exclude_defaults=True)
    return TierRoute(route.pool, route.model, route.price, route.in_flight_max, breaker, label, key, burst, burst_key)


class RouteEvent(NamedTuple):
    """Something happened to a call: it was asked for, went well, went wrong, or is not awaited any more.

    Or to its route, for calls of that lane: it is crowded from now on, or eased.
    """

    route: TierRoute
    kind: Literal["asked", "answered", "failed", "abandoned", "crowded", "eased"]
    home: int
    at_ms: int
    dispatched_at_ms: int
    lane: Lane = Lane.STANDARD


class Look(NamedTuple):
    """What a route is like at a moment. `free_at_ms`: when it may be tried again; None: now."""

    free_at_ms: int | None
    probe: bool
    """Whether a call would be one of the few that try out whether it works again."""
    full: bool
    """Whether as many calls are in flight as the route takes."""
    room: Room | None = None
    """What its engines report; None: nothing that is valid."""

    @property
    def away(self) -> bool:
        """Whether engines report, and none takes work."""
        return self.room is not None and self.room.engines == 0


NOTHING_SPECIAL: Final = Look(None, False, False)


class Transition(NamedTuple):
    """A breaker changed its state, or a route became crowded, or is so no more."""

    label: str
    state: Literal["opened", "closed", "crowded", "eased"]


@dataclass(slots=True)
class _State:
    outcomes: deque[tuple[int, bool, bool]] = field(default_factory=deque)
    """(at_ms, failed, slow) of the last calls."""
    failed: int = 0
    slow: int = 0
    half_open_at_ms: int | None = None
    """None: closed."""
    probes_since_ms: int = 0
    probes_sent: int = 0
    probes_passed: int = 0


@dataclass(slots=True)
class Undo:
    """How one counted event is taken back: calls in flight, the probes and the crowd as they were before."""

    event: RouteEvent
    change: int
    probes: tuple[_State, int, int, int] | None = None
    crowd: tuple[CrowdKey, CrowdState | None] | None = None


class _InFlight:
    """Calls asked for on one route and not over yet; every call is counted twice. Lanes are places in URGENT_FIRST."""

    __slots__ = ("all", "by_home", "by_lane")

    def __init__(self) -> None:
        self.all = 0
        self.by_lane = [0] * LANES
        self.by_home: defaultdict[int, list[int]] = defaultdict(lambda: [0] * LANES)
        """By home and lane."""

    def add(self, home: int, lane: int, calls: int) -> None:
        """That many more, or less."""
        self.all += calls
        self.by_lane[lane] += calls
        self.by_home[home][lane] += calls


class Breakers:
    """What one instance of the orchestrator knows of routes."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._in_flight: defaultdict[str, _InFlight] = defaultdict(_InFlight)
        """By label."""
        self.rooms = Rooms()
        self.owned, self.homes = 1, 1
        """How many of all homes this instance owns: it may use as large a share of each route's in_flight_max."""

    def look(self, route: TierRoute, at_ms: int, asked: int = 0) -> Look:
        """The route as it is; the present event has sent `asked` calls there already, less those that it ended."""
        full = False
        if route.in_flight_max is not None:
            in_flight = self.in_flight(route.label) + asked
            full = in_flight * self.homes >= route.in_flight_max * self.owned and in_flight > 0
        state, room = self._states.get(route.key), self.rooms.find(route.label)
        if state is None or state.half_open_at_ms is None:
            return NOTHING_SPECIAL if room is None and not full else Look(None, False, full, room)
        if at_ms < state.half_open_at_ms:
            return Look(state.half_open_at_ms, False, full, room)
        # Probes that never come back, as of a run that another instance took over, must not keep it half open.
        since_ms, sent = state.probes_since_ms, state.probes_sent
        open_ms = _milliseconds(route.breaker.open_seconds)
        if not sent or at_ms >= since_ms + open_ms:
            since_ms, sent = at_ms, 0
        if sent + max(0, asked) >= route.breaker.probes:
            return Look(since_ms + open_ms, False, full, room)
        return Look(None, True, full, room)

    def crowd(self, route: TierRoute, lane: Lane, at_ms: int, asked: int = 0) -> Crowd:
        """How the route looks to a call of a lane; the present event has sent `asked` more there already."""
        room = self.rooms.find(route.label)
        if room is None or route.burst is None:
            return FREE
        place = URGENT_FIRST.index(lane)
        # Other instances are taken to have as much in flight for each home as this one.
        by_lane = self._in_flight[route.label].by_lane
        ahead, behind = (
            sum(lanes) * self.homes // self.owned for lanes in (by_lane[: place + 1], by_lane[place + 1 :])
        )
        # What engines have beyond that, as after a restart of ours, may be as urgent.
        ahead = max(ahead + max(0, asked), room.in_flight - behind)
        return self.rooms.crowd(route.label, route.burst, route.burst_key, lane, ahead, at_ms)

    def in_flight(self, label: str) -> int:
        """Calls asked for on a route and not over yet."""
        return self._in_flight[label].all

    def count(self, events: Iterable[RouteEvent]) -> list[Undo]:
        """Counts calls that are about to be written; `uncount` takes back what was not.

        At once, because what is decided next in the same batch has to know of it.
        """
        undo: list[Undo] = []
        for event in events:
            kind = event.kind
            if kind == "crowded" or kind == "eased":
                key = (event.route.label, event.route.burst_key, event.lane)
                undo.append(Undo(event, 0, crowd=(key, self.rooms.remember(key, (kind == "crowded", event.at_ms)))))
                continue
            calls, lane = self._in_flight[event.route.label], URGENT_FIRST.index(event.lane)
            change = 1 if kind == "asked" else -1
            # An answer to a call from before this instance owned the home takes nothing away.
            if calls.by_home[event.home][lane] + change >= 0:
                calls.add(event.home, lane, change)
                undo.append(Undo(event, change))
            state = self._states.get(event.route.key)
            if kind == "asked" and state is not None and _is_probe(state, event.at_ms):
                probes = (state, state.probes_since_ms, state.probes_sent, state.probes_passed)
                undo.append(Undo(event, 0, probes))
                _send_probe(state, event)
        return undo

    def uncount(self, undo: Sequence[Undo]) -> None:
        """What was counted was not written."""
        for each in reversed(undo):
            event = each.event
            self._in_flight[event.route.label].add(event.home, URGENT_FIRST.index(event.lane), -each.change)
            if each.crowd is not None:
                self.rooms.remember(*each.crowd)
            if each.probes is not None:
                state = each.probes[0]
                _, state.probes_since_ms, state.probes_sent, state.probes_passed = each.probes

    def learn(self, events: Iterable[RouteEvent]) -> list[Transition]:
        """Takes how calls went that were written."""
        transitions = []
        for event in events:
            if event.kind not in ("answered", "failed"):
                if event.kind == "crowded" or event.kind == "eased":
                    transitions.append(Transition(event.route.label, event.kind))
                continue
            state = self._states.get(event.route.key)
            if state is None:
                state = self._states[event.route.key] = _State()
            change = _ended(state, event)
            if change is not None:
                transitions.append(Transition(event.route.label, change))
        return transitions

    def forget_homes(self, homes: Collection[int]) -> None:
        """Somebody else owns these now, and their calls in flight."""
        for calls in self._in_flight.values():
            for home in homes:
                for lane, count in enumerate(calls.by_home[home]):
                    calls.add(home, lane, -count)
                del calls.by_home[home]


def _is_probe(state: _State, at_ms: int) -> bool:
    return state.half_open_at_ms is not None and at_ms >= state.half_open_at_ms


def _send_probe(state: _State, event: RouteEvent) -> None:
    if not state.probes_sent or event.at_ms >= state.probes_since_ms + _milliseconds(event.route.breaker.open_seconds):
        state.probes_since_ms, state.probes_sent, state.probes_passed = event.at_ms, 0, 0
    state.probes_sent += 1


def _ended(state: _State, event: RouteEvent) -> Literal["opened", "closed"] | None:
    breaker = event.route.breaker
    failed = event.kind == "failed"
    slow_ms = None if breaker.slow_call_seconds is None else _milliseconds(breaker.slow_call_seconds)
    slow = slow_ms is not None and event.at_ms - event.dispatched_at_ms > slow_ms
    if state.half_open_at_ms is None:
        return "opened" if _too_many(state, breaker, event.at_ms, failed, slow) else None
    if event.dispatched_at_ms < state.half_open_at_ms:
        return None  # a straggler from before it opened says nothing about now
    if failed or slow:
        _open(state, breaker, event.at_ms)
        return "opened"
    state.probes_passed += 1
    if state.probes_passed < breaker.probes:
        return None
    state.half_open_at_ms = None
    state.probes_sent = state.probes_passed = 0
    return "closed"


def _too_many(state: _State, breaker: Breaker, at_ms: int, failed: bool, slow: bool) -> bool:
    """Adds an outcome to the window; opens where too many in it are bad."""
    outcomes = state.outcomes
    outcomes.append((at_ms, failed, slow))
    if failed or slow:
        state.failed += failed
        state.slow += slow
    oldest_ms = at_ms - _milliseconds(breaker.window_seconds)
    while len(outcomes) > breaker.window_calls or outcomes[0][0] < oldest_ms:
        _, was_failed, was_slow = outcomes.popleft()
        state.failed -= was_failed
        state.slow -= was_slow
    if not state.failed and not state.slow:
        return False  # as nearly always
    count = len(outcomes)
    if count < breaker.calls_min:
        return False
    bad = state.failed >= breaker.error_rate * count or (
        breaker.slow_call_seconds is not None and state.slow >= breaker.slow_call_rate * count
    )
    if bad:
        _open(state, breaker, at_ms)
    return bad


def _open(state: _State, breaker: Breaker, at_ms: int) -> None:
    state.half_open_at_ms = at_ms + _milliseconds(breaker.open_seconds)
    state.probes_sent = state.probes_passed = state.failed = state.slow = 0
    state.outcomes.clear()


@cache
def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * SECOND_MS))

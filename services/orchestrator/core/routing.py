"""Owns the choice of a route: by breaker, room, price and order. Choice and reason stand in the step's row."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from penstock.contracts.messages import NextMove, WorkError
from services.orchestrator.core.breakers import NOTHING_SPECIAL, Breakers, RouteEvent, TierRoute
from services.orchestrator.core.bursting import behind, bursts
from services.orchestrator.core.frames import LeafFrame

if TYPE_CHECKING:
    from services.orchestrator.core.turn import Turn

Reason = str
"""Why a call does not simply go to the tier's first route: `fallback` (that failed it before), `breaker_open` (it is
left alone), `engine_away` (its engines say that they take no work), `in_flight_max` (it is full), `probe` (the call
tries out a route that was left alone), `all_full` (all routes are full or behind, this is the first or cheapest),
`all_open` (all are left alone, it waits); or in words, behind `burst:` (its engines are behind, by how much) and
`burst_budget:` (they are, but bursts may cost no more today)."""

REFUSED_ALIKE: Final = frozenset(
    {
        "context_overflow",
        "max_tokens_beyond_room",
        "image_unsupported",
        "tools_unsupported",
        "embeddings_unsupported",
        "schema_invalid",
    }
)
"""Codes of failures that are between the request and the model: asked again, this model refuses it again."""
NOT_THE_ROUTES_FAULT: Final = REFUSED_ALIKE | {"content_filtered"}
"""Codes of failures that say something about the request, and nothing about who refused it."""


class Calls:
    """What one event has done on routes so far."""

    __slots__ = ("answered", "asked", "crowds", "stayed")

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        """Calls by label, less those that ended."""
        self.answered: set[str] = set()
        """The routes, by key, that have just shown that they work: a run whose call was the probe need not wait."""
        self.crowds: set[tuple[str, str]] = set()
        """The routes, by label and thresholds, whose crowds were told of."""
        self.stayed: dict[str, int] = {}
        """By step path, the route that a call left because its engines are behind."""


class Choice(NamedTuple):
    """The route to take; `wrapped`: it comes before the one that the last attempt failed on."""

    route: int
    reason: Reason | None
    wrapped: bool = False


_SIMPLY: Final = Choice(0, None)


class Wait(NamedTuple):
    """All routes are left alone; the first may be tried again then."""

    until_ms: int


@dataclass(slots=True)
class _Passed:
    """Routes that were not taken, and why the first of them was not."""

    reason: Reason | None = None
    full: list[int] = field(default_factory=list)
    crowded: list[int] = field(default_factory=list)
    away: list[int] = field(default_factory=list)
    free_at_ms: list[int] = field(default_factory=list)


def choose(routes: tuple[TierRoute, ...], leaf: LeafFrame, turn: "Turn") -> Choice | Wait:
    """The route for the next attempt: the first from the step's present one on that is neither open, away, full nor
    behind."""
    known, first, calls = turn.facts.routes, leaf.step.route, turn.calls
    if known is None:
        return Choice(first, "fallback" if first else None)
    route = routes[first]
    if not first and route.burst is None:
        # As nearly always; all else is for the few.
        asked = 0 if calls is None else calls.asked.get(route.label, 0)
        if known.look(route, turn.at_ms, asked) is NOTHING_SPECIAL:
            return _SIMPLY
    return _choose(routes, leaf, turn, known)


def _choose(routes: tuple[TierRoute, ...], leaf: LeafFrame, turn: "Turn", known: Breakers) -> Choice | Wait:
    first, step = leaf.step.route, leaf.step
    calls = turn.calls or Calls()
    passed = _Passed()
    for index in (*range(first, len(routes)), *range(first)):
        route = routes[index]
        look = known.look(route, turn.at_ms, calls.asked.get(route.label, 0))
        repaired = step.repairs > 0 and index == first
        if look.free_at_ms is not None and route.key not in calls.answered:
            passed.free_at_ms.append(look.free_at_ms)
            passed.reason = passed.reason or "breaker_open"
        elif look.away:
            passed.away.append(index)
            passed.reason = passed.reason or "engine_away"
        elif look.full and not repaired:
            passed.full.append(index)
            passed.reason = passed.reason or "in_flight_max"
        elif not repaired and (told := _behind(turn, leaf, route)) is not None:
            passed.crowded.append(index)
            passed.reason = passed.reason or told
        else:
            if passed.crowded:
                _calls(turn).stayed[step.path] = passed.crowded[0]
            # What was sent on once is paid for as a burst, however often it is tried there.
            fallen = step.route_reason if bursts(step) else "fallback"
            reason = passed.reason or (fallen if first else None)
            return Choice(index, "probe" if look.probe else reason, index < first)
    return _least_bad(routes, passed, first)


def _least_bad(routes: tuple[TierRoute, ...], passed: _Passed, first: int) -> Choice | Wait:
    """Where to go, or how long to wait, when no route is simply free."""
    if passed.crowded:
        return Choice(passed.crowded[0], "all_full", passed.crowded[0] < first)
    if passed.full:
        return Choice(min(passed.full, key=lambda index: (_price(routes[index]), index)), "all_full")
    if passed.away:
        return Choice(passed.away[0], "engine_away", passed.away[0] < first)
    return Wait(min(passed.free_at_ms))


def _behind(turn: "Turn", leaf: LeafFrame, route: TierRoute) -> Reason | None:
    """Why a call should go on, where the route's engines are behind; tells what was found of them."""
    if route.burst is None:
        return None
    calls = _calls(turn)
    told, news = behind(turn, leaf, route, calls.asked.get(route.label, 0))
    key = (route.label, route.burst_key)
    if news is not None and key not in calls.crowds:
        calls.crowds.add(key)
        _tell(turn, news)
    return told


def _price(route: TierRoute) -> float:
    """What decides among full routes. Without a price it is our own, paid for already."""
    return 0.0 if route.price is None else float(route.price.input_per_million + route.price.output_per_million)


def asked(turn: "Turn", leaf: LeafFrame, routes: tuple[TierRoute, ...]) -> None:
    """A call goes to the step's route."""
    if turn.facts.routes is not None:
        route, calls = routes[leaf.step.route], _calls(turn)
        calls.asked[route.label] = calls.asked.get(route.label, 0) + 1
        _tell(turn, RouteEvent(route, "asked", turn.run.home, turn.at_ms, turn.at_ms, turn.run.priority))


def ended(turn: "Turn", leaf: LeafFrame, kind: Literal["answered", "failed", "abandoned"]) -> None:
    """A call on the step's route is over, or not awaited any more."""
    routes = leaf.node.routes
    if turn.facts.routes is not None and routes:
        step = leaf.step
        route = routes[step.route]
        calls = _calls(turn)
        calls.asked[route.label] = calls.asked.get(route.label, 0) - 1
        if kind == "answered":
            calls.answered.add(route.key)
        began_ms = step.dispatched_at_ms or 0
        _tell(turn, RouteEvent(route, kind, turn.run.home, turn.at_ms, began_ms, turn.run.priority))


def dead_end(routes: tuple[TierRoute, ...], route: int, error: WorkError) -> bool:
    """Whether a call that should go elsewhere has no elsewhere left, and would be refused again where it is."""
    elsewhere = error.next is NextMove.RETRY_ELSEWHERE and error.code in REFUSED_ALIKE
    return elsewhere and 0 < len(routes) <= route + 1


def _calls(turn: "Turn") -> Calls:
    if turn.calls is None:
        turn.calls = Calls()
    return turn.calls


def _tell(turn: "Turn", event: RouteEvent) -> None:
    turn.decision.route_events = (*turn.decision.route_events, event)


def how_it_went(error: WorkError | None) -> Literal["answered", "failed"]:
    """Whether an answer speaks against its route."""
    if error is None or error.code in NOT_THE_ROUTES_FAULT:
        return "answered"
    return "failed" if error.next in (NextMove.RETRY_AFTER, NextMove.RETRY_ELSEWHERE) else "answered"

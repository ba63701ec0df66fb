"""Owns the choice of a route: by breaker, calls in flight and order. Choice and reason stand in the step's row."""

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from penstock.contracts.messages import NextMove, WorkError
from services.orchestrator.core.breakers import RouteEvent, TierRoute
from services.orchestrator.core.frames import LeafFrame

if TYPE_CHECKING:
    from services.orchestrator.core.turn import Turn

Reason = Literal["fallback", "breaker_open", "in_flight_max", "probe", "all_full", "all_open"]
"""Why a call does not simply go to the tier's first route: that failed it before, is left alone, or is full; the call
tries out a route that was left alone; all routes are full, this is the cheapest; all are left alone, it waits."""

NOT_THE_ROUTES_FAULT: Final = frozenset({"context_overflow", "content_filtered"})
"""Codes of failures that say something about the request, and nothing about who refused it."""


class Calls:
    """What one event has done on routes so far."""

    __slots__ = ("answered", "asked")

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Calls by label, less those that ended."""
        self.answered: set[str] = set()
        """The routes, by key, that have just shown that they work: a run whose call was the probe need not wait."""


class Choice(NamedTuple):
    """The route to take; `wrapped`: it comes before the one that the last attempt failed on."""

    route: int
    reason: Reason | None
    wrapped: bool = False


class Wait(NamedTuple):
    """All routes are left alone; the first may be tried again then."""

    until_ms: int


def choose(routes: tuple[TierRoute, ...], leaf: LeafFrame, turn: "Turn") -> Choice | Wait:
    """The route for the next attempt: the first from the step's present one on that is neither open nor full."""
    known, first, step = turn.facts.routes, leaf.step.route, leaf.step
    if known is None:
        return Choice(first, "fallback" if first else None)
    calls = turn.calls or Calls()
    passed: Reason | None = None
    full: list[int] = []
    free_at_ms: list[int] = []
    for index in (*range(first, len(routes)), *range(first)):
        route = routes[index]
        look = known.look(route, turn.at_ms, calls.asked[route.label])
        if look.free_at_ms is not None and route.key not in calls.answered:
            free_at_ms.append(look.free_at_ms)
            passed = passed or "breaker_open"
        elif look.full and not (step.repairs and index == first):
            full.append(index)
            passed = passed or "in_flight_max"
        else:
            fallen: Reason | None = "fallback" if first else None
            return Choice(index, "probe" if look.probe else passed or fallen, index < first)
    if full:
        return Choice(min(full, key=lambda index: (_price(routes[index]), index)), "all_full")
    return Wait(min(free_at_ms))


def _price(route: TierRoute) -> float:
    """What decides among full routes. Without a price it is our own, paid for already."""
    return 0.0 if route.price is None else float(route.price.input_per_million + route.price.output_per_million)


def asked(turn: "Turn", leaf: LeafFrame, routes: tuple[TierRoute, ...]) -> None:
    """A call goes to the step's route."""
    if turn.facts.routes is not None:
        route = routes[leaf.step.route]
        _calls(turn).asked[route.label] += 1
        _tell(turn, RouteEvent(route, "asked", turn.run.home, turn.at_ms, turn.at_ms))


def ended(turn: "Turn", leaf: LeafFrame, kind: Literal["answered", "failed", "abandoned"]) -> None:
    """A call on the step's route is over, or not awaited any more."""
    routes = leaf.node.routes
    if turn.facts.routes is not None and routes:
        step = leaf.step
        route = routes[step.route]
        calls = _calls(turn)
        calls.asked[route.label] -= 1
        if kind == "answered":
            calls.answered.add(route.key)
        _tell(turn, RouteEvent(route, kind, turn.run.home, turn.at_ms, step.dispatched_at_ms or 0))


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

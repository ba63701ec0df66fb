"""Owns bursts: calls that go on because a route's engines are behind, and what a tenant may spend on them in a day.

What a call would cost at most is reserved before it is asked for, and settled by its answer; one that does not fit
stays where it is. Routes without a price are our own, and cost nothing extra.
"""

from typing import TYPE_CHECKING, Final

from services.orchestrator.core.allowance import day_of, left_over
from services.orchestrator.core.breakers import RouteEvent, TierRoute
from services.orchestrator.core.frames import LeafFrame
from services.orchestrator.core.state import NOTHING, Amounts, Step

if TYPE_CHECKING:
    from services.orchestrator.core.turn import Turn

PREFIX: Final = "burst:"
"""Of the reason in the row of a step whose call was sent on."""
OWNER: Final = "burst/"
"""Before a tenant's name: whose day it is that bursts are paid from. No tenant's name holds a slash."""
SECOND_MS: Final = 1_000


def bursts(step: Step) -> bool:
    """Whether the step's present call was sent on because engines are behind."""
    return step.route_reason is not None and step.route_reason.startswith(PREFIX)


def behind(turn: "Turn", leaf: LeafFrame, route: TierRoute, asked: int) -> tuple[str | None, RouteEvent | None]:
    """Why a call should not wait for a route's engines, if so; and what is to be remembered of the route."""
    known, run = turn.facts.routes, turn.run
    if known is None or route.burst is None:
        return None, None
    crowd = known.crowd(route, run.priority, turn.at_ms, asked)
    news = None
    if crowd.changed:
        kind = "crowded" if crowd.crowded else "eased"
        news = RouteEvent(route, kind, run.home, turn.at_ms, turn.at_ms, run.priority)  # type: ignore[arg-type]  # one of the two
    told = f"{PREFIX} {route.label} is {crowd.wait_ms / SECOND_MS:.1f} s behind"
    if crowd.crowded:
        return told, news
    room = known.rooms.find(route.label)
    service_ms = 0 if room is None else room.service_ms
    latest_ms = min(run.deadline_at_ms, leaf.step.give_up_at_ms or run.deadline_at_ms)
    left_ms = latest_ms - turn.at_ms - service_ms
    # Where there is no wait, or not even time for the call alone, going elsewhere gains nothing.
    if crowd.wait_ms > 0 and 0 <= left_ms < crowd.wait_ms:
        return f"{told}, too late for the deadline", news
    return None, news


def affordable(turn: "Turn", leaf: LeafFrame, needed: Amounts) -> bool:
    """Whether what the call costs at most fits what is left of the tenant's day for bursts."""
    allowance, price = turn.facts.burst, leaf.node.routes[leaf.step.route].price
    if allowance is None or price is None:
        return True
    cost = allowance.caps.cost
    if cost is not None and cost.currency != price.currency:
        return False
    taken = turn.decision.burst_charges
    return all(getattr(needed, cap) <= left for cap, left in left_over(allowance, taken, day_of(turn.at_ms)).items())


def stay(turn: "Turn", leaf: LeafFrame) -> None:
    """The call does not go on for want of money: it waits for the engines that are behind."""
    step = leaf.step
    said = (step.route_reason or "").removeprefix(PREFIX).strip()
    step.route = 0 if turn.calls is None else turn.calls.stayed.get(step.path, 0)
    step.route_reason = f"burst_budget: {said}, and what the tenant may spend on bursts today is used up"


def paid_as_burst(leaf: LeafFrame) -> bool:
    """Whether the step's present call costs money that is set aside for bursts."""
    return bursts(leaf.step) and leaf.node.routes[leaf.step.route].price is not None


def charge_burst(turn: "Turn", at_ms: int, amounts: Amounts) -> None:
    """Tells what a call that is paid as a burst takes of its tenant's day for them; negative: gives back."""
    if turn.facts.burst is not None and amounts != NOTHING:
        turn.decision.burst_charges += ((day_of(at_ms), amounts),)

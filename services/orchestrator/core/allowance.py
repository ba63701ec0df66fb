"""Owns what a decision knows of its tenant's budget for the day, and what it says that it took of it.

A day is a UTC day, by number since 1970. Calls that were never answered stay counted with their worst case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import Budget, Failure
from penstock.workflow.tiers import Price
from services.orchestrator.core.limits import Cap, limit_of
from services.orchestrator.core.state import NOTHING, Amounts

if TYPE_CHECKING:
    from services.orchestrator.core.turn import Turn

DAY_MS: Final = 86_400_000
Charges = tuple[tuple[int, Amounts], ...]
"""(day, amounts), negative where given back."""
SETTING: Final = "PENSTOCK_ORCHESTRATOR_TENANT_BUDGETS"


@dataclass(frozen=True, slots=True)
class Allowance:
    """A tenant's budget. `left` is what is left today of the caps that are nearly used up; of others there is enough,
    or the shell will see to it before anything is written."""

    tenant: str
    caps: Budget
    left: Mapping[Cap, Decimal | int]


def day_of(at_ms: int) -> int:
    """The number of a moment's day."""
    return at_ms // DAY_MS


def charge(turn: "Turn", at_ms: int, amounts: Amounts) -> None:
    """Tells what a call takes of its tenant's budget for the day on which it was asked for; negative: gives back."""
    if amounts != NOTHING:
        turn.decision.charges += ((day_of(at_ms), amounts),)


def taken_of(cap: Cap, charges: Charges, day: int) -> Decimal:
    """What decisions of this event have taken of a cap of a day."""
    return sum((getattr(amounts, cap) for on, amounts in charges if on == day), start=Decimal(0))


def left_over(allowance: Allowance, charges: Charges, day: int) -> dict[Cap, Decimal]:
    """What is left of the caps that are nearly used up, after these charges."""
    return {cap: left - taken_of(cap, charges, day) for cap, left in allowance.left.items()}


def shortage(turn: "Turn", allowance: Allowance, needed: Amounts, price: Price | None, path: str) -> Failure | None:
    """Why a call does not fit what is left of the tenant's day."""
    today = day_of(turn.at_ms)
    for cap, left in allowance.left.items():
        taken = taken_of(cap, turn.decision.charges, today)
        need = getattr(needed, cap)
        unknown = cap == "cost" and price is None
        if taken + need > left or (unknown and taken >= left):
            cost = allowance.caps.cost
            limit = limit_of(allowance.caps, cap)
            unit = f" {cost.currency}" if cap == "cost" and cost is not None else ""
            text = (
                f"the cap of {cap.replace('_', ' ')} of the tenant {allowance.tenant} is {limit}{unit} a day: "
                f"{_shown(max(Decimal(0), left - taken))} left, {_shown(Decimal(need))} needed at most by this call, "
                f"which was not sent; raise {SETTING} of the orchestrator, or redrive the run after "
                f"{rfc3339((today + 1) * DAY_MS)}"
            )
            return Failure(code="budget_exceeded", message=text, step=path)
    return None


def _shown(value: Decimal) -> str:
    return format(value.normalize(), "f")

"""Owns what a rehearsal can say about the world around a run: how far engines are behind, and money for bursts.

It stays as it is for the whole rehearsal. Left out, a decision knows nothing beside its run.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import Field

from penstock.contracts.messages import Budget, CapacityReported, Money
from penstock.testkit.builders import BEGINNING_MS, a_report
from services.orchestrator.core.allowance import Allowance
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.bursting import OWNER
from services.orchestrator.core.facts import NO_FACTS, Facts
from services.rehearsal.durations import DurationMs, said
from services.rehearsal.written import Written

SECOND_TOKENS: Final = 1_000
SECOND_MS: Final = 1_000


class Engines(Written):
    """The engines of a pool that have a model: how long a call would wait for them, or that they take no work."""

    pool: str
    model: str
    behind: DurationMs = 0
    away: bool = False


class Circumstances(Written):
    """What decisions are to know beside their run."""

    engines: Annotated[list[Engines], Field(max_length=100)] = Field(default_factory=list)
    burst_cost_left: Annotated[Decimal, Field(ge=0)] | None = None
    """What the tenant may still spend on bursts today, in the prices' currency; left out, whatever it takes."""
    currency: str = "USD"


def facts_of(circumstances: Circumstances | None, tenant: str) -> Facts:
    """The same for the orchestrator's core."""
    if circumstances is None:
        return NO_FACTS
    known = Breakers()
    for report in _reports(circumstances.engines):
        known.rooms.take(report, BEGINNING_MS)
    left = circumstances.burst_cost_left
    if left is None:
        return Facts(routes=known)
    caps = Budget(cost=Money(amount=left, currency=circumstances.currency))
    return Facts(routes=known, burst=Allowance(OWNER + tenant, caps, {"cost": left}))


def _reports(engines: Sequence[Engines]) -> list[CapacityReported]:
    """One engine each, with one place and a call a second: as many before it as it is seconds behind."""
    return [
        a_report(
            f"engine-{number}",
            pool=each.pool,
            models=[each.model],
            state="away" if each.away else "up",
            requests_in_flight=each.behind // SECOND_MS,
            tokens_in_flight=each.behind // SECOND_MS * SECOND_TOKENS,
            requests_best=1,
            tokens_per_second_best=float(SECOND_TOKENS),
        )
        for number, each in enumerate(engines)
    ]


def plain(circumstances: Circumstances) -> dict[str, Any]:
    """As a recorded history keeps it."""
    kept = circumstances.model_dump(mode="json", exclude_defaults=True)
    for engines in kept.get("engines", ()):
        if "behind" in engines:
            engines["behind"] = said(engines["behind"])
    return kept

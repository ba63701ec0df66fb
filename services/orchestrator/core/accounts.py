"""Owns accounts: what a run's budget, or the caps of a block, allow, hold reserved and have spent.

Nothing here is stored: an account is the sum over the step rows below it. What a call reserves stands in its step's row
while it is awaited. A call that is not awaited any more (it timed out, or was cancelled) may have been paid for all the
same, so it counts with its worst case until its answer comes: see late.py.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from penstock.contracts.messages import Budget, CapNeared, StepPhase
from services.orchestrator.core.allowance import charge
from services.orchestrator.core.bursting import charge_burst, paid_as_burst
from services.orchestrator.core.frames import Frame, LeafFrame, below
from services.orchestrator.core.limits import CAPS as CAPS  # whoever asks for accounts asks by cap
from services.orchestrator.core.limits import Cap as Cap
from services.orchestrator.core.limits import limit_of as limit_of
from services.orchestrator.core.state import NOTHING, Amounts, Run, StepKind, Unanswered

if TYPE_CHECKING:
    from services.orchestrator.core.turn import Turn

NEAR_PER_CENT: Final = 80
PAID: Final[frozenset[StepKind]] = frozenset({"model", "run"})
"""The kinds of steps that can cost money."""


@dataclass(slots=True)
class Account:
    """What a run, or a block of it, may spend, has spent and has reserved."""

    caps: Budget
    path: str = ""
    """Of the block; empty for the run."""
    workflow: str = ""
    ceiling: Budget | None = None
    """The workflow's own budget, where `caps` is a run's."""
    spent: Amounts = NOTHING
    """By calls that were answered, and by those that may never be."""
    unanswered: Amounts = NOTHING
    """The part of `spent` whose answer has not come."""
    reserved: Amounts = NOTHING

    def where(self, cap: Cap) -> str:
        """Which field raises a cap."""
        if self.path:
            return f"`caps.{cap}` of the block `{self.path}`"
        if self.ceiling is not None and limit_of(self.ceiling, cap) == limit_of(self.caps, cap):
            return f"`budget.{cap}` of the workflow `{self.workflow}`"
        return f"`budget.{cap}` of the run's request"


def account_of(run: Run, caps: Budget, path: str = "", ceiling: Budget | None = None) -> Account:
    """The account of a run, or of the block at `path`, as the rows say. A block's frame answers with it (`account`)."""
    account = Account(caps, path, run.workflow, ceiling)
    for step in run.steps.values():
        if not below(step.path, path) or step.kind not in PAID:
            continue
        if step.model_calls:
            account.spent += Amounts(step.model_calls, step.input_tokens + step.output_tokens, step.cost)
        for each in step.unanswered:
            account.spent += each.most
            account.unanswered += each.most
        if step.reserved is not None:
            account.reserved += step.reserved
    return account


def accounts(turn: "Turn", leaf: LeafFrame) -> list[Account]:
    """The accounts that a leaf's calls count for: those of the blocks around it, the run's last."""
    found: list[Account] = []
    frame: Frame | None = leaf.parent if turn.live.accounted else None
    while frame is not None:
        account = frame.account()
        if account is not None:
            found.append(account)
        frame = frame.parent
    return found


def spend(turn: "Turn", account: Account, used: Amounts) -> None:
    """Adds to what is spent. It shrinks by late answers only, so each cap is neared once, or again after one of them,
    whatever is restarted in between."""
    before, account.spent = account.spent, account.spent + used
    for cap in CAPS:
        limit = limit_of(account.caps, cap)
        if limit is None:
            continue
        was, now = getattr(before, cap), getattr(account.spent, cap)
        if was * 100 < limit * NEAR_PER_CENT <= now * 100:
            neared = {
                "cap": cap,
                "block": account.path or None,
                "used": Decimal(now),
                "limit": Decimal(limit),
                "currency": account.caps.cost.currency if cap == "cost" and account.caps.cost is not None else None,
                "at": turn.at,
            }
            turn.decision.caps_neared += (CapNeared.trusted(neared),)


def abandon(turn: "Turn", leaf: LeafFrame) -> None:
    """An attempt is not awaited any more: what it reserved may have been spent."""
    step = leaf.step
    if step.phase is not StepPhase.WAITING or step.kind not in PAID:
        return
    counted = accounts(turn, leaf)  # before the row says it: they add up rows
    reserved, step.reserved = step.reserved, None
    asked_at_ms, burst = step.dispatched_at_ms or turn.at_ms, paid_as_burst(leaf)
    step.unanswered += (Unanswered(step.attempt, reserved or NOTHING, asked_at_ms, burst),)
    if reserved is None:
        return
    for account in counted:
        account.reserved -= reserved
        account.unanswered += reserved
        spend(turn, account, reserved)


def release(turn: "Turn", leaf: LeafFrame) -> None:
    """An attempt was made and unmade by the same event: it is never sent."""
    counted = accounts(turn, leaf)
    reserved, leaf.step.reserved = leaf.step.reserved, None
    if reserved is None:
        return
    for account in counted:
        account.reserved -= reserved
    if turn.facts.tenant is not None and leaf.step.kind == "model":
        charge(turn, turn.at_ms, NOTHING - reserved)
    if paid_as_burst(leaf):
        charge_burst(turn, turn.at_ms, NOTHING - reserved)

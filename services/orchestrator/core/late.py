"""Owns what an answer changes that nobody awaits: the money, once, and nothing else.

A call that was given up counts with its worst case. If its answer comes after all, what it used takes that place, in
the accounts that are open and in the row, whether or not the run goes on.
"""

from collections.abc import Iterator

from penstock.contracts import ids
from penstock.contracts.messages import InferenceCompleted
from services.orchestrator.core.accounts import Account, spend
from services.orchestrator.core.allowance import charge
from services.orchestrator.core.attempts import Completed
from services.orchestrator.core.budget import count, count_child
from services.orchestrator.core.bursting import charge_burst
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.frames import Frame, below
from services.orchestrator.core.state import Amounts, Step, Unanswered
from services.orchestrator.core.turn import Turn


def settle(turn: Turn, message: Completed) -> None:
    """Counts what a call used that was given up. Changes nothing where that was counted, or cannot be added."""
    step = turn.run.steps.get(message.step)
    found = None if step is None else _unanswered(turn, step, message)
    if step is None or found is None or not _can_be_added(turn, message):
        return
    counted = list(_accounts(turn, step.path))  # before the row says it: they add up rows
    step.unanswered = tuple(each for each in step.unanswered if each is not found)
    used = _counted(turn, step, message)
    for account in counted:
        account.unanswered -= found.most
        spend(turn, account, used - found.most)
    if step.kind == "model" and turn.facts.tenant is not None:
        charge(turn, found.asked_at_ms, used - found.most)
    if found.burst:
        charge_burst(turn, found.asked_at_ms, used - found.most)
    turn.touched[step.path] = step


def _unanswered(turn: Turn, step: Step, message: Completed) -> Unanswered | None:
    """The attempt that this answers, where it was given up and not answered before."""
    kind = {InferenceCompleted: "model", ChildCompleted: "run"}.get(type(message))
    if kind != step.kind:
        return None
    for each in step.unanswered:
        if ids.request_id(turn.run.key, step.path, each.attempt) == message.request_id:
            return each
    return None


def _can_be_added(turn: Turn, message: Completed) -> bool:
    """Whether the cost is in the currency of the run and its tenant: if not, the worst case stands."""
    cost = message.finished.usage.cost if isinstance(message, ChildCompleted) else getattr(message, "cost", None)
    if cost is None or not cost.amount:
        return True
    usage, tenant = turn.run.usage, turn.facts.tenant
    known = {usage.currency} if usage.cost else set()
    if tenant is not None and tenant.caps.cost is not None:
        known.add(tenant.caps.cost.currency)
    return known <= {cost.currency}


def _counted(turn: Turn, step: Step, message: Completed) -> Amounts:
    if isinstance(message, ChildCompleted):
        return count_child(turn.run, step, message.finished.usage)
    assert isinstance(message, InferenceCompleted)
    return count(turn.run, step, message)


def _accounts(turn: Turn, path: str) -> Iterator[Account]:
    """The open accounts that a call at this path counted for."""
    live = turn.live
    if live.account is not None:
        yield live.account
    if not live.accounted:
        return
    seen: set[int] = set()
    for leaf in live.leaves.values():
        frame: Frame | None = leaf.parent
        while frame is not None and id(frame) not in seen:
            seen.add(id(frame))
            if below(path, frame.path) and frame.parent is not None:
                account = frame.account()
                if account is not None:
                    yield account
            frame = frame.parent

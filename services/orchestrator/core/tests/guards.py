"""Owns what must always hold of budgets and routes; the state machine's properties hold each decision against it."""

from collections import Counter
from collections.abc import Iterator

from penstock.contracts.messages import InferenceRequested, StepPhase
from services.orchestrator.core.accounts import CAPS, account_of, limit_of
from services.orchestrator.core.caps import CappedFrame
from services.orchestrator.core.frames import Frame, Live
from services.orchestrator.core.state import Decision
from services.orchestrator.core.tests.conversation import Conversation


def check_routes(talk: Conversation, decision: Decision) -> None:
    """Guard: nothing is sent to a route that is left alone, unless it has just shown that it works."""
    known = talk.facts.routes
    assert known is not None
    answered = {event.route.key for event in decision.route_events if event.kind == "answered"}
    for event in decision.route_events:
        if event.kind == "asked" and event.route.key not in answered:
            assert known.look(event.route, event.at_ms).free_at_ms is None


def check_in_flight(talk: Conversation) -> None:
    """Guard: as many calls are counted in flight as are awaited."""
    known = talk.facts.routes
    assert known is not None
    waiting = [
        talk.requests[path, step.attempt]
        for path, step in talk.run.steps.items()
        if step.kind == "model" and step.phase is StepPhase.WAITING
    ]
    labels = Counter(f"{call.pool}/{call.model}" for call in waiting if isinstance(call, InferenceRequested))
    assert [known.in_flight(label) for label in ("small/first", "burst/x")] == [
        labels["small/first"],
        labels["burst/x"],
    ]


def check_budget(talk: Conversation, decision: Decision, near: dict[str, bool]) -> None:
    """Guard: what is spent and reserved never exceeds the budget, and is what the rows say; nothing is negative."""
    run, live = talk.run, talk.run.live
    for step in run.steps.values():
        assert step.reserved is None or step.phase is StepPhase.WAITING
        if step.kind == "model" and run.budget is not None:
            assert (step.reserved is not None) == (step.phase is StepPhase.WAITING)
    if run.budget is None:
        return
    account = account_of(run, run.budget, ceiling=talk.program.budget)
    neared = Counter(each.cap for each in decision.caps_neared if each.block is None)
    for cap in CAPS:
        limit = limit_of(run.budget, cap)
        was, now = near.get(cap, False), limit is not None and getattr(account.spent, cap) * 100 >= limit * 80
        near[cap] = now
        if live is None:
            continue
        # Guard: a cap is said to be near once, when it is; and again only when a late answer took it away in between.
        assert neared[cap] == (now and not was)
        spent, reserved = getattr(account.spent, cap), getattr(account.reserved, cap)
        assert min(spent, reserved, getattr(account.unanswered, cap)) >= 0
        assert limit is None or spent + reserved <= limit
    assert live is None or live.account == account


def check_caps(talk: Conversation) -> None:
    """Guard: what the open blocks with caps count is what the rows say, and never exceeds the caps."""
    live = talk.run.live
    frames = [] if live is None else {id(each): each for each in _open_frames(live)}.values()
    for frame in frames:
        account = frame.account() if isinstance(frame, CappedFrame) else None
        if account is None:
            continue
        assert account == account_of(talk.run, account.caps, frame.path)
        for cap in ("model_calls", "tokens"):
            limit = limit_of(account.caps, cap)
            assert limit is None or getattr(account.spent, cap) + getattr(account.reserved, cap) <= limit


def _open_frames(live: Live) -> Iterator[Frame]:
    for leaf in live.leaves.values():
        frame: Frame | None = leaf.parent
        while frame is not None:
            yield frame
            frame = frame.parent

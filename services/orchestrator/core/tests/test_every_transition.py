"""Owns an example of every entry in the table of transitions: each kind of step, in each phase, told each event."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.contracts.messages import Failure, NextMove, StepPhase
from penstock.testkit.builders import a_chain, a_child_run, a_model, a_task, a_tool
from services.orchestrator.core.decide import ChildEnded
from services.orchestrator.core.state import StepKind
from services.orchestrator.core.tests.conversation import Conversation, only_money
from services.orchestrator.core.tests.transitions import EVERY, TABLE, C, F, R, W, X

ANSWERED = {"model": a_model("one"), "tool": a_tool("one"), "task": a_task("one"), "run": a_child_run("one")}
RETRY = {"attempts": 3, "initial_ms": 60_000}
DECIDED: dict[str, dict[str, Any]] = {
    "check": {"id": "one", "check": "input.good.x"},
    "route": {"id": "one", "route": [{"case": "good", "when": "input.good.x", "do": a_task("way")}]},
    "map": {"id": "one", "parallel": {"map": "input.good.x", "do": a_task("each")}},
    "vote": {"id": "one", "parallel": {"vote": {"do": {"id": "a", "sleep": 0}, "votes": 2}}},
    "refine": {"id": "one", "refine": {"generate": {"id": "a", "sleep": 0}, "score": "input.good.x[0]"}},
    "agent": {"id": "one", "agent": {"model": "small", "prompt": "", "tools": [{"task": "a.b"}]}},
}
"""Blocks whose decision is a row: a good one from `{x: [1]}`, none from an input without `x`."""
ROWS = {"refine": "one[0]", "agent": "one[0]"}
SAYS = {"calls": [{"tool": "a.b"}]}


class Unchecked(Conversation):
    """A conversation about what could not be published: a sleep that is longer than its run."""

    only_sound = False


def beside(block: dict[str, Any], **given: Any) -> Conversation:
    """A block beside a task and a child run, which keep the run going whatever becomes of it."""
    others = [a_task("other", timeout_seconds=3000), a_child_run("child", timeout_seconds=3000)]
    return Unchecked({"id": "all", "parallel": {"sections": [block, *others], "join": "best_effort"}}, given)


def cut_short(block: dict[str, Any]) -> Conversation:
    """A step that was cancelled because the one beside it failed."""
    talk = beside({"id": "both", "parallel": {"sections": [block, a_task("stop")]}})
    talk.fail("all/both/stop")
    return talk


def asking(kind: str, phase: StepPhase) -> tuple[Conversation, str]:
    """A step that asks an executor, or for a child run."""
    step = ANSWERED[kind] | {"retry": RETRY}
    if phase is X:
        return cut_short(step), "all/both/one"
    talk, path = beside(step), "all/one"
    failure = Failure(code="unknown_workflow" if phase is F else "broken", message="no")
    match phase:
        case StepPhase.COMPLETED if kind == "run":
            talk.child_ended(path, 1)
        case StepPhase.COMPLETED:
            talk.succeed(path, "yes")
        case StepPhase.FAILED | StepPhase.RETRYING if kind == "run":
            talk.child_ended(path, status="failed", error=failure)
        case StepPhase.FAILED:
            talk.fail(path)
        case StepPhase.RETRYING:
            talk.fail(path, NextMove.RETRY_AFTER)
        case _:
            pass
    return talk, path


def sleeping(phase: StepPhase) -> tuple[Conversation, str]:
    """A sleep."""
    if phase is X:
        return cut_short({"id": "one", "sleep": 60}), "all/both/one"
    seconds = {C: 0, F: 9_000}.get(phase, 60)
    return beside({"id": "one", "sleep": seconds}), "all/one"


def undoing(phase: StepPhase) -> tuple[Conversation, str]:
    """The undo of the second of two steps; the first one's is next."""
    undo = {"undo": {"task": "a.b", "retry": RETRY}}
    talk = Unchecked(a_chain(a_task("zero", **undo), a_task("one", **undo), a_task("bad")), undo_seconds=3000)
    talk.succeed("main/zero")
    talk.succeed("main/one")
    talk.fail("main/bad")
    path = "main/one/undo"
    match phase:
        case StepPhase.COMPLETED:
            talk.succeed(path)
        case StepPhase.FAILED:
            talk.fail(path)
        case StepPhase.RETRYING:
            talk.fail(path, NextMove.RETRY_AFTER)
        case StepPhase.CANCELLED:
            talk.ring(talk.run.deadline_at_ms)
        case _:
            pass
    return talk, path


def decided(kind: str, phase: StepPhase) -> tuple[Conversation, str]:
    """A row of what a block decided. Only a redrive after undoing has one begin again behind the step before it."""
    row = ROWS.get(kind, "one")
    block = DECIDED[kind]
    if kind == "agent" and phase is not C:
        block = {"id": "one", "agent": block["agent"] | {"turns_max": 1}}
    if kind == "vote" and phase is not C:
        # A vote that is too large to keep is the only one whose failure is a row.
        large = {"id": "a", "chain": [{"id": "b", "sleep": 0}], "output": "{{ 'x' * 300000 }}"}
        block = {"id": "one", "parallel": {"vote": {"do": large, "votes": 2}}}
    good = {"x": [1]} if phase is C else {}
    if phase is not X:
        talk, path = beside(block, good=good), f"all/{row}"
        if kind == "agent":
            talk.succeed("all/one[0]/turn", SAYS)
        return talk, path
    talk = Unchecked(a_chain(a_task("zero", undo={"task": "a.b"}), block), {"good": good})
    talk.succeed("main/zero")
    if kind == "agent":
        talk.succeed("main/one[0]/turn", SAYS)
    talk.succeed("main/zero/undo")
    talk.redrive()
    return talk, f"main/{row}"


def brought_to(kind: StepKind, phase: StepPhase) -> tuple[Conversation, str]:
    """A run with a step of a kind in a phase, and the step's path."""
    match kind:
        case "model" | "tool" | "task" | "run":
            return asking(kind, phase)
        case "sleep":
            return sleeping(phase)
        case "undo":
            return undoing(phase)
        case _:
            return decided(kind, phase)


def tell(talk: Conversation, path: str, event: str) -> None:
    """The event; an answer is to the step itself where it was ever asked for."""
    last = max((attempt for asked, attempt in (*talk.requests, *talk.children) if asked == path), default=0)
    match event:
        case "Outcome" if (path, last) in talk.requests:
            talk.succeed(path, "again", attempt=last)
        case "Outcome":
            other = next(asked for asked, _ in talk.requests)
            talk.succeed(other, step=path)
        case "ChildEnded" if talk.children:
            child, attempt = next(
                ((asked, n) for asked, n in talk.children if asked == path), next(iter(talk.children))
            )
            talk.child_ended(child, "again", attempt=attempt)
        case "ChildEnded":
            talk.tell(a_stranger_ended(path, talk.now_ms))
        case "AlarmDue":
            talk.ring(talk.now_ms + 61_000)
        case "Cancelled":
            talk.cancel()
        case _:
            talk.redrive()


def a_stranger_ended(path: str, at_ms: int) -> ChildEnded:
    """The end of a child that the run never asked for, said to be the step's."""
    other = Conversation(a_child_run("child"))
    other.child_ended("child")
    told = other.heard[-1]
    assert isinstance(told, ChildEnded)
    return ChildEnded(replace(told.message, step=path), at_ms)


def test_the_table_knows_every_kind_phase_and_event() -> None:
    """Guard: a new one is thought about, in the table."""
    missing = [
        (kind, phase, event)
        for kind, phase, event in EVERY
        if kind not in TABLE
        or phase not in TABLE[kind]
        or (not isinstance(TABLE[kind][phase], str) and event not in TABLE[kind][phase])
    ]
    assert missing == []
    assert len(EVERY) == sum(len(afters) for afters in TABLE.values()) * len(TABLE["task"][W])


@pytest.mark.parametrize(
    ("kind", "phase", "event"), [each for each in EVERY if not isinstance(TABLE[each[0]][each[1]], str)]
)
def test_every_event_finds_a_step_of_every_kind_in_every_phase(kind: StepKind, phase: StepPhase, event: str) -> None:
    """Guard: what the event makes of it is in the table; see `check_transitions`."""
    talk, path = brought_to(kind, phase)
    assert (talk.run.steps[path].kind, talk.run.steps[path].phase) == (kind, phase)

    tell(talk, path, event)

    assert type(talk.heard[-1]).__name__ == event


@pytest.mark.parametrize("phase", [R, C, F, X])
@pytest.mark.parametrize("kind", ["model", "tool", "task", "run"])
def test_an_answer_to_a_step_that_does_not_wait_changes_nothing(kind: StepKind, phase: StepPhase) -> None:
    talk, path = brought_to(kind, phase)

    tell(talk, path, "ChildEnded" if kind == "run" else "Outcome")

    paid = phase is X and kind in ("model", "run")
    assert only_money(talk.last)
    assert talk.last.empty != paid
    assert talk.run.steps[path].phase is phase


def test_an_undo_that_a_redrive_forgot_is_asked_for_again_when_the_run_is_cancelled() -> None:
    # given a run that undid a step and was redriven, so that the step completed again
    talk, path = undoing(C)
    talk.succeed("main/zero/undo")
    talk.redrive()
    talk.succeed("main/zero", attempt=2)
    talk.ring()
    talk.succeed("main/one", attempt=2)
    assert talk.run.steps[path].phase is X
    # when it is cancelled, then it is undone again, as soon as the alarm rings
    talk.cancel()
    assert talk.run.steps[path].phase is R
    assert talk.ring().requests[0].step == path

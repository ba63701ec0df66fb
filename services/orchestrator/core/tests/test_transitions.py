"""Owns what each event does to a step in each phase, alone and within loops; all kinds are in transitions.py."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.contracts.messages import NextMove, StepPhase, ToolRequested
from penstock.testkit.builders import BEGINNING_MS, a_task, succeeded
from services.orchestrator.core.tests.conversation import KEY, Conversation

W, R, C, F, X = StepPhase.WAITING, StepPhase.RETRYING, StepPhase.COMPLETED, StepPhase.FAILED, StepPhase.CANCELLED


LOOPS: dict[str, dict[str, Any]] = {
    "all/one": a_task("one"),
    "all/fix[0]/call[0]": {"id": "fix", "agent": {"model": "small", "prompt": "", "tools": [{"task": "a.b"}]}},
    "all/poem[0]/draft": {"id": "poem", "refine": {"generate": a_task("draft"), "score": "0", "rounds_max": 2}},
    "all/audit[0]/task[0]/work": {"id": "audit", "plan": {"model": "small", "prompt": ""}, "do": a_task("work")},
}
"""The step whose phases are looked at, by its path: alone, and within each kind of loop."""


def brought_to(phase: StepPhase, path: str = "all/one") -> Conversation:
    """A run of two blocks side by side, with a step of the first in `phase`; the second keeps the run going."""
    effort = {"sections": [LOOPS[path], a_task("two", timeout_seconds=3000)], "join": "best_effort"}
    talk = Conversation({"id": "all", "parallel": effort})
    if ("all/fix[0]/turn", 1) in talk.requests:
        talk.succeed("all/fix[0]/turn", {"calls": [{"tool": "a.b"}]})
    if ("all/audit[0]/plan", 1) in talk.requests:
        talk.succeed("all/audit[0]/plan", {"tasks": ["a"]})
    match phase:
        case StepPhase.WAITING:
            pass
        case StepPhase.RETRYING:
            talk.fail(path, NextMove.RETRY_AFTER, retry_after_ms=70_000)
        case StepPhase.COMPLETED:
            talk.succeed(path)
        case StepPhase.FAILED:
            talk.fail(path)
        case StepPhase.CANCELLED:
            talk.cancel()
    assert talk.run.steps[path].phase is phase
    return talk


@pytest.mark.parametrize("path", LOOPS)
@pytest.mark.parametrize(
    ("phase", "event", "after"),
    [
        (W, "success", C),
        (W, "failure", F),
        (W, "retry", R),
        (W, "alarm", R),
        (W, "cancel", X),
        (R, "success", R),
        (R, "failure", R),
        (R, "retry", R),
        (R, "alarm", W),
        (R, "cancel", X),
        (C, "success", C),
        (C, "failure", C),
        (C, "retry", C),
        (C, "alarm", C),
        (C, "cancel", C),
        (F, "success", F),
        (F, "failure", F),
        (F, "retry", F),
        (F, "alarm", F),
        (F, "cancel", F),
        (X, "success", X),
        (X, "failure", X),
        (X, "retry", X),
        (X, "alarm", X),
        (X, "cancel", X),
    ],
)
def test_what_an_event_does_to_a_step(phase: StepPhase, event: str, after: StepPhase, path: str) -> None:
    """Guard: a result that nobody awaits changes nothing; every (phase, event) pair is in the table."""
    talk = brought_to(phase, path)
    match event:
        case "success":
            decision = talk.succeed(path, "again")
        case "failure":
            decision = talk.fail(path)
        case "retry":
            decision = talk.fail(path, NextMove.RETRY_AFTER)
        case "alarm":
            decision = talk.ring(BEGINNING_MS + 70_000)
        case _:
            decision = talk.cancel()

    assert talk.run.steps[path].phase is after
    if phase is not W and event in ("success", "failure", "retry"):
        assert decision.empty


@pytest.mark.parametrize("field", [{"step": "all/nowhere"}, {"step": "all/two"}, {"request_id": KEY}])
def test_an_answer_to_what_was_never_asked_changes_nothing(field: dict[str, Any]) -> None:
    talk = brought_to(W)

    assert talk.succeed("all/one", **field).empty
    assert [step.phase for step in talk.run.steps.values()] == [W, W]


def test_an_answer_of_another_kind_changes_nothing() -> None:
    talk = brought_to(W)
    request = talk.requests["all/one", 1]
    tool = ToolRequested.model_validate({**request.model_dump(), "tool": "files.read", "grants": []})

    assert talk.answer(succeeded(tool, 1)).empty


class Unchecked(Conversation):
    """A conversation about a definition that could not be published: its sleep is longer than its run."""

    only_sound = False


def asleep(phase: StepPhase) -> Conversation:
    """A run of a sleep and a step side by side; the sleep is in `phase`, the step keeps the run going."""
    nap = {"id": "one", "sleep": 5_000 if phase is F else 60}
    effort = {"sections": [nap, a_task("two", timeout_seconds=3000)], "join": "best_effort"}
    talk = Unchecked({"id": "all", "parallel": effort})
    match phase:
        case StepPhase.COMPLETED:
            talk.ring()
        case StepPhase.CANCELLED:
            talk.cancel()
        case _:
            pass
    assert talk.run.steps["all/one"].phase is phase
    return talk


@pytest.mark.parametrize(
    ("phase", "event", "after"),
    [
        (W, "answer", W),
        (W, "alarm", C),
        (W, "cancel", X),
        (C, "answer", C),
        (C, "alarm", C),
        (C, "cancel", C),
        (F, "answer", F),
        (F, "alarm", F),
        (F, "cancel", F),
        (X, "answer", X),
        (X, "alarm", X),
        (X, "cancel", X),
    ],
)
def test_what_an_event_does_to_a_sleep(phase: StepPhase, event: str, after: StepPhase) -> None:
    """Guard: nobody can answer a sleep."""
    talk = asleep(phase)
    match event:
        case "answer":
            decision = talk.succeed("all/two", step="all/one")
            assert decision.empty
        case "alarm":
            talk.ring(BEGINNING_MS + 70_000)
        case _:
            talk.cancel()

    assert talk.run.steps["all/one"].phase is after


PINNED: dict[str, dict[str, Any]] = {
    "check": {"id": "one", "check": "input.good.x"},
    "route": {"id": "one", "route": [{"case": "good", "when": "input.good.x", "do": a_task("way")}]},
    "map": {"id": "one", "parallel": {"map": "input.good.x", "do": a_task("each")}},
    "vote": {"id": "one", "parallel": {"vote": {"do": {"id": "ballot", "check": "input.good.x"}, "votes": 2}}},
}
"""Blocks that decide at once, from the input, and whose decision is a row; an input without `x` decides badly."""


@pytest.mark.parametrize("event", ["answer", "alarm", "cancel"])
@pytest.mark.parametrize(
    ("kind", "good", "phase"),
    [
        ("check", {"x": [1]}, C),
        ("check", {"x": []}, F),
        ("check", {}, F),
        ("route", {"x": [1]}, C),
        ("route", {}, F),
        ("map", {"x": [1]}, C),
        ("map", {"x": 1}, F),
        ("vote", {"x": [1]}, C),
    ],
)
def test_what_a_block_decided_no_event_changes(kind: str, good: dict[str, Any], phase: StepPhase, event: str) -> None:
    effort = {"sections": [PINNED[kind], a_task("two", timeout_seconds=3000)], "join": "best_effort"}
    talk = Conversation({"id": "all", "parallel": effort}, {"good": good})
    before = replace(talk.run.steps["all/one"])
    assert (before.kind, before.phase) == (kind, phase)
    match event:
        case "answer":
            assert talk.succeed("all/two", step="all/one").empty
        case "alarm":
            talk.ring(BEGINNING_MS + 70_000)
        case _:
            talk.cancel()

    assert talk.run.steps["all/one"] == before

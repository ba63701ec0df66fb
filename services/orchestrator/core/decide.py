"""Owns the state machine: what each event does to a run; `starting` and `ending` are its two ends.

Time arrives in the events, ids and jitter derive from ids: the same run and event give the same decision, byte for
byte. A result that nobody awaits changes nothing but what was spent (late.py), unless it tells whether a cancelled
step has to be undone.
"""

from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import (
    Failure,
    InferenceCompleted,
    StepPhase,
    TaskCompleted,
    ToolCompleted,
)
from services.orchestrator.core import late, undo
from services.orchestrator.core.attempts import Completed, answered, deadline_exceeded
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.ending import applied, closed, end, finish
from services.orchestrator.core.entering import derived, enter
from services.orchestrator.core.facts import NO_FACTS, Facts
from services.orchestrator.core.frames import Answer, LeafFrame, Live
from services.orchestrator.core.program import Program
from services.orchestrator.core.starting import begin, refused, rejected
from services.orchestrator.core.state import Decision, Run, StepKind
from services.orchestrator.core.turn import RunFailedError, Turn


@dataclass(slots=True)
class Outcome:
    """An executor answered."""

    message: InferenceCompleted | ToolCompleted | TaskCompleted
    at_ms: int


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A run that a step of this one asked for is over."""

    message: ChildCompleted
    at_ms: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody cancelled the run."""

    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Redriven:
    """Somebody asked for a failed run to go on where it failed."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class AlarmDue:
    """The run's alarm rang: a timeout, a retry or the deadline is due."""

    at_ms: int


Event = Outcome | ChildEnded | Cancelled | Redriven | AlarmDue


def decide(run: Run, program: Program, event: Event, facts: Facts = NO_FACTS) -> Decision:
    """What an event leads to. `run` is updated in place; the same run, event and facts give the same decision."""
    if run.status != "running":
        if isinstance(event, Redriven) and run.status == "failed" and not rejected(run):
            return _redrive(run, program, event.at_ms, facts)
        return _over(run, event, facts)
    live = run.live if run.live is not None else restore(run, program, facts)
    turn = Turn(run, live, event.at_ms, facts)
    match event:
        case Outcome() | ChildEnded():
            leaf = _awaiting(live, event.message)
            if leaf is None:
                return applied(turn, lambda: _late(turn, event.message))
            return applied(turn, lambda: _pass_on(turn, leaf, answered(turn, leaf, event.message)))
        case Cancelled() if run.undoing is not None:
            return closed(turn)  # what a cancel leads to is under way
        case Cancelled():
            reason = event.reason or "somebody cancelled the run"
            return applied(turn, lambda: end(turn, "cancelled", Failure(code="cancelled", message=reason)))
        case AlarmDue():
            return applied(turn, lambda: _ring(turn))
        case Redriven():
            return closed(turn)


def _over(run: Run, event: Event, facts: Facts) -> Decision:
    """A run that is over hears of nothing but of money that was spent for it."""
    if not isinstance(event, Outcome | ChildEnded):
        return Decision(run)
    turn = Turn(run, Live(0), event.at_ms, facts)
    late.settle(turn, event.message)
    return closed(turn)


def restore(run: Run, program: Program, facts: Facts = NO_FACTS) -> Live:
    """Derives what is not stored from the run's step rows, by entering its blocks again.

    `decide` does it by itself for a run that was loaded. Raises CorruptRunError where a row is missing.
    """
    turn = Turn(run, derived(run, program), run.started_at_ms, facts)
    turn.restoring = True
    if run.undoing is not None:
        run.live = turn.live
        answer = undo.go_on(turn)
    else:
        answer = enter(turn, program.root)
    if answer is not None or turn.touched or turn.decision.requests:
        raise CorruptRunError(f"run {run.run_id} of {run.tenant}: its step rows do not say where it is")
    return turn.live


class CorruptRunError(RuntimeError):
    """The rows of a running run are not what any sequence of events leads to."""


def _awaiting(live: Live, message: Completed) -> LeafFrame | None:
    """The leaf that awaits this very answer."""
    leaf = live.leaves.get(message.step)
    if leaf is None or leaf.step.phase is not StepPhase.WAITING or leaf.step.request_id != message.request_id:
        return None
    return leaf if type(message) in _KINDS[leaf.step.kind] else None


def _late(turn: Turn, message: Completed) -> None:
    """An answer that no leaf awaits: beside the money it changes nothing, unless an undo hangs on it."""
    late.settle(turn, message)
    step = undo.unsettled_step(turn.run, message.step)
    if step is None or step.request_id != message.request_id or type(message) not in _KINDS[step.kind]:
        return
    undo.late(turn, step, message.output, succeeded=message.error is None)
    if turn.run.undoing is not None:
        _undone(turn, undo.go_on(turn))


def _undone(turn: Turn, answer: Answer) -> None:
    if answer is not None:
        finish(turn, answer)


def _pass_on(turn: Turn, leaf: LeafFrame, answer: Answer) -> None:
    """Carries an answer up from frame to frame until a block is not over."""
    frame, slot = leaf.parent, leaf.slot
    while answer is not None:
        answer = frame.child_ended(turn, slot, answer)
        if frame.parent is None:
            if answer is not None:
                finish(turn, answer)
            return
        frame, slot = frame.parent, frame.slot


def _ring(turn: Turn) -> None:
    """Everything that is due."""
    if turn.at_ms >= turn.run.deadline_at_ms:
        raise RunFailedError(deadline_exceeded(turn))
    leaf = turn.live.pop_due(turn.at_ms)
    while leaf is not None:
        _pass_on(turn, leaf, leaf.node.due(turn, leaf))
        leaf = turn.live.pop_due(turn.at_ms)
    settled_at_ms = turn.live.settled_at_ms
    if settled_at_ms is not None and turn.at_ms >= settled_at_ms:
        _undone(turn, undo.settle(turn))


def _redrive(run: Run, program: Program, at_ms: int, facts: Facts) -> Decision:
    """A failed run goes on where it failed; what succeeded stays, unless it was undone, and so does what a best effort
    made do with.
    """
    culprit = None if run.error is None else run.error.step
    run.status = "running"
    run.error = run.finished_at_ms = None
    run.redrives += 1
    run.version = program.version
    turn = Turn(run, Live(0), at_ms, facts)
    turn.culprit = culprit
    if undo.forget(turn) or run.deadline_at_ms <= at_ms:  # after undoing, the deadline was that of undoing
        run.deadline_at_ms = at_ms + program.deadline_ms
    turn.live, contents = derived(run, program), turn.live.contents
    turn.live.contents = contents
    turn.decision.run_changed = True
    turn.redriven = True

    def go_on() -> None:
        begin(turn, program, refused(turn, program, run.budget))
        _ring(turn)

    return applied(turn, go_on)


_KINDS: Final[dict[StepKind, tuple[type, ...]]] = {
    "model": (InferenceCompleted,),
    "tool": (ToolCompleted,),
    "task": (TaskCompleted,),
    "run": (ChildCompleted,),
    "undo": (ToolCompleted, TaskCompleted),
}

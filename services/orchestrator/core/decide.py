"""Owns the state machine: everything that changes a run happens here, from events alone.

Time arrives in the events, ids and jitter derive from ids: the same run and event give the same decision, byte for
byte. A result that nobody awaits changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import (
    Failure,
    InferenceCompleted,
    RunFinished,
    RunRequested,
    RunStart,
    StepPhase,
    TaskCompleted,
    ToolCompleted,
)
from services.orchestrator.core.compiler import Node
from services.orchestrator.core.frames import Answer, Enclosure, Failed, LeafFrame, Live, Succeeded
from services.orchestrator.core.leaf import answered, deadline_exceeded, due
from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Decision, Run, StepKind
from services.orchestrator.core.turn import RunFailedError, Turn, moment
from services.orchestrator.core.values import VALUE_BYTES_MAX, NotPortableError, portable, preview


@dataclass(frozen=True, slots=True)
class Outcome:
    """An executor answered."""

    message: InferenceCompleted | ToolCompleted | TaskCompleted
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


Event = Outcome | Cancelled | Redriven | AlarmDue

REJECTIONS: Final = frozenset({"invalid_request", "unknown_tenant"})
"""The codes of runs that were never more than an answer: what they asked for was not kept."""


def start(
    request: RunRequested,
    *,
    key: UUID,
    tenant: str,
    run_id: str,
    home: int,
    program: Program | None,
    at_ms: int,
    traceparent: str | None,
) -> Decision:
    """The run that a request asks for, with its first requests. With no program the run fails at once."""
    name, _, version = request.workflow.partition("@")
    run = Run(
        key=key,
        tenant=tenant,
        run_id=run_id,
        workflow=name if program is None else program.name,
        version=version if program is None else program.version,
        home=home,
        status="running",
        input=request.input,
        labels=request.labels,
        priority=request.priority,
        budget=request.budget,
        deadline_at_ms=_deadline(request, program, at_ms),
        traceparent=traceparent,
        started_at_ms=at_ms,
    )
    turn = Turn(run, _live(run, program), at_ms)
    turn.decision.run_changed = True
    fault = _refused(run, program)
    turn.decision.start = RunStart(
        input_preview=None if fault is not None else preview(run.input),
        priority=run.priority,
        deadline=moment(run.deadline_at_ms),
        started_at=turn.at,
    )
    return _applied(turn, lambda: _begin(turn, program, fault))


def reject(
    request: RunRequested, failure: Failure, *, key: UUID, tenant: str, run_id: str, home: int, at_ms: int
) -> Decision:
    """A run that fails before anything else about it is looked at: the request can be answered, not served.

    `failure` has one of REJECTIONS as its code, so that nobody redrives a run of which nothing is kept.
    """
    if failure.code not in REJECTIONS:
        raise ValueError(f"{failure.code} does not reject a request")
    name, _, version = request.workflow.partition("@")
    run = Run(
        key=key,
        tenant=tenant,
        run_id=run_id,
        workflow=name,
        version=version,
        home=home,
        status="running",
        input=None,
        labels=request.labels,
        priority=request.priority,
        budget=None,
        deadline_at_ms=at_ms,
        traceparent=None,
        started_at_ms=at_ms,
    )
    turn = Turn(run, _live(run, None), at_ms)
    turn.decision.start = RunStart(priority=run.priority, started_at=turn.at)
    return _applied(turn, lambda: _begin(turn, None, failure))


def decide(run: Run, program: Program, event: Event) -> Decision:
    """What an event leads to. `run` is updated in place; the same run and event give the same decision."""
    if run.status != "running":
        redriven = isinstance(event, Redriven) and run.status == "failed" and not _rejected(run)
        return _redrive(run, program, event.at_ms) if redriven else Decision(run)
    live = run.live if run.live is not None else restore(run, program)
    turn = Turn(run, live, event.at_ms)
    match event:
        case Outcome():
            leaf = _awaiting(live, event)
            if leaf is None:
                return _closed(turn)
            return _applied(turn, lambda: _pass_on(turn, leaf, answered(turn, leaf, event.message)))
        case Cancelled():
            reason = event.reason or "somebody cancelled the run"
            return _applied(turn, lambda: _end(turn, "cancelled", Failure(code="cancelled", message=reason)))
        case AlarmDue():
            return _applied(turn, lambda: _ring(turn))
        case Redriven():
            return _closed(turn)


def restore(run: Run, program: Program) -> Live:
    """Derives what is not stored from the run's step rows, by entering its blocks again.

    `decide` does it by itself for a run that was loaded. Raises CorruptRunError where a row is missing.
    """
    turn = Turn(run, _live(run, program), run.started_at_ms)
    answer = _enter(turn, program.root)
    if answer is not None or turn.touched or turn.decision.requests:
        raise CorruptRunError(f"run {run.run_id} of {run.tenant}: its step rows do not say where it is")
    return turn.live


class CorruptRunError(RuntimeError):
    """The rows of a running run are not what any sequence of events leads to."""


def _rejected(run: Run) -> bool:
    return run.error is not None and run.error.code in REJECTIONS


def _deadline(request: RunRequested, program: Program | None, at_ms: int) -> int:
    latest_ms = at_ms + (0 if program is None else program.deadline_ms)
    if request.deadline is None:
        return latest_ms
    return min(latest_ms, round(request.deadline.timestamp() * 1000))


def _refused(run: Run, program: Program | None) -> Failure | None:
    """Why a run cannot begin at all."""
    if program is None:
        asked = f"{run.workflow}@{run.version}" if run.version else run.workflow
        return Failure(
            code="unknown_workflow",
            message=f"no workflow `{asked}` is published; publish it, then ask again under another run id",
        )
    try:
        run.input, size_bytes = portable(run.input)
    except NotPortableError as error:
        return Failure(code="invalid_input", message=f"the input is not portable JSON: {error}")
    if size_bytes > VALUE_BYTES_MAX:
        text = f"the input has {size_bytes} bytes; a run may take {VALUE_BYTES_MAX}"
        return Failure(code="value_too_large", message=text)
    fault = program.input_schema.fault(run.input) if program.input_schema is not None else None
    if fault is not None:
        return Failure(code="invalid_input", message=f"the input misses the workflow's schema at {fault}")
    return None


def _begin(turn: Turn, program: Program | None, fault: Failure | None) -> None:
    if fault is not None or program is None:
        _end(turn, "failed", fault)
        return
    answer = _enter(turn, program.root)
    if answer is not None:
        _finish(turn, answer)


def _enter(turn: Turn, root: Node) -> Answer:
    run = turn.run
    turn.run.live = turn.live
    names = {
        "input": run.input,
        "run": {
            "id": run.run_id,
            "tenant": run.tenant,
            "workflow": run.workflow,
            "version": run.version,
            "labels": run.labels,
            "started_at": rfc3339(run.started_at_ms),
        },
    }
    return root.enter(turn, Enclosure(None, 0, "", names), 0, root.id)


def _live(run: Run, program: Program | None) -> Live:
    steps_max = 0 if program is None else program.steps_max
    return Live(steps_max, dispatched=sum(step.attempt for step in run.steps.values()))


def _awaiting(live: Live, event: Outcome) -> LeafFrame | None:
    """The leaf that awaits this very answer."""
    message = event.message
    leaf = live.leaves.get(message.step)
    if leaf is None or leaf.step.phase is not StepPhase.WAITING or leaf.step.request_id != message.request_id:
        return None
    return leaf if _KINDS[leaf.step.kind] is type(message) else None


def _pass_on(turn: Turn, leaf: LeafFrame, answer: Answer) -> None:
    """Carries an answer up from frame to frame until a block is not over."""
    frame, slot = leaf.parent, leaf.slot
    while answer is not None:
        answer = frame.child_ended(turn, slot, answer)
        if frame.parent is None:
            if answer is not None:
                _finish(turn, answer)
            return
        frame, slot = frame.parent, frame.slot


def _ring(turn: Turn) -> None:
    """Everything that is due."""
    if turn.at_ms >= turn.run.deadline_at_ms:
        raise RunFailedError(deadline_exceeded(turn.run.deadline_at_ms))
    leaf = turn.live.pop_due(turn.at_ms)
    while leaf is not None:
        _pass_on(turn, leaf, due(turn, leaf))
        leaf = turn.live.pop_due(turn.at_ms)


def _redrive(run: Run, program: Program, at_ms: int) -> Decision:
    """A failed run goes on where it failed; what succeeded stays, and so does what a best effort made do with."""
    culprit = None if run.error is None else run.error.step
    run.status = "running"
    run.error = run.finished_at_ms = None
    run.redrives += 1
    run.version = program.version
    if run.deadline_at_ms <= at_ms:
        run.deadline_at_ms = at_ms + program.deadline_ms
    turn = Turn(run, _live(run, program), at_ms)
    turn.decision.run_changed = True
    turn.redriven = True
    turn.culprit = culprit

    def go_on() -> None:
        _begin(turn, program, _refused(run, program))
        _ring(turn)

    return _applied(turn, go_on)


def _applied(turn: Turn, work: Callable[[], None]) -> Decision:
    try:
        work()
    except RunFailedError as error:
        _end(turn, "failed", error.failure)
    return _closed(turn)


def _finish(turn: Turn, answer: Succeeded | Failed) -> None:
    if isinstance(answer, Failed):
        _end(turn, "failed", answer.failure)
        return
    try:
        output, size_bytes = portable(answer.output)
    except NotPortableError as error:
        _end(turn, "failed", Failure(code="value_not_portable", message=f"the run's output is not JSON: {error}"))
        return
    if size_bytes > VALUE_BYTES_MAX:
        text = f"the run's output has {size_bytes} bytes; a run may give {VALUE_BYTES_MAX}"
        _end(turn, "failed", Failure(code="value_too_large", message=text))
        return
    turn.run.output = output
    _end(turn, "completed", None)


def _end(turn: Turn, status: Literal["completed", "failed", "cancelled"], error: Failure | None) -> None:
    """The run is over: nothing more is awaited."""
    run = turn.run
    turn.cancel_below("")
    run.status = status
    run.error = error
    run.finished_at_ms = turn.at_ms
    run.live = None
    turn.decision.run_changed = True
    turn.decision.finished = RunFinished(
        run_id=run.run_id,
        workflow=run.workflow,
        version=run.version,
        tenant=run.tenant,
        labels=run.labels,
        status=status,
        output=run.output,
        error=error,
        started_at=moment(run.started_at_ms),
        finished_at=turn.at,
        usage=run.usage.to_message(),
    )


def _closed(turn: Turn) -> Decision:
    decision = turn.close()
    decision.alarm_at_ms = _alarm(turn.run)
    return decision


def _alarm(run: Run) -> int | None:
    """When the run wants to be called next, whatever happens."""
    if run.status != "running" or run.live is None:
        return None
    first_ms = run.live.next_due()
    return run.deadline_at_ms if first_ms is None else min(first_ms, run.deadline_at_ms)


_KINDS: Final[dict[StepKind, type]] = {"model": InferenceCompleted, "tool": ToolCompleted, "task": TaskCompleted}

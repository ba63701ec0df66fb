"""Owns the end of a run, and of a decision: what is said last, and when the run wants to be called next."""

from collections.abc import Callable
from typing import Literal

from penstock.contracts.messages import Failure, RunFinished
from services.orchestrator.core import undo
from services.orchestrator.core.frames import Failed, Succeeded
from services.orchestrator.core.state import Decision, Run
from services.orchestrator.core.turn import RunFailedError, Turn, moment
from services.orchestrator.core.values import NotPortableError, bytes_max_of, portable


def applied(turn: Turn, work: Callable[[], None]) -> Decision:
    """The decision that some work on the run comes to; what fails the whole run ends it."""
    try:
        work()
    except RunFailedError as error:
        end(turn, "failed", error.failure)
    return closed(turn)


def finish(turn: Turn, answer: Succeeded | Failed) -> None:
    """The root block is over, or what had to be undone is, and so is the run."""
    if isinstance(answer, Failed):
        end(turn, "failed", answer.failure)
        return
    try:
        output, size_bytes = portable(answer.output)
    except NotPortableError as error:
        end(turn, "failed", Failure(code="value_not_portable", message=f"the run's output is not JSON: {error}"))
        return
    bytes_max = bytes_max_of(turn.live.contents)
    if size_bytes > bytes_max:
        text = f"the run's output has {size_bytes} bytes; a run may give {bytes_max}"
        end(turn, "failed", Failure(code="value_too_large", message=text))
        return
    turn.run.output = output
    end(turn, "completed", None)


def end(turn: Turn, status: Literal["completed", "failed", "cancelled"], error: Failure | None) -> None:
    """Nothing more is awaited; the run is over, once what has an undo is undone."""
    run = turn.run
    turn.cancel_below("")
    if run.undoing is not None:  # all is undone, or the time for it is over
        _over(turn, run.undoing, undo.explained(run))
    elif status == "completed" or not undo.begun(turn, status, error):
        _over(turn, status, error if run.undoing is None else undo.explained(run))


def _over(turn: Turn, status: Literal["completed", "failed", "cancelled"], error: Failure | None) -> None:
    run = turn.run
    run.status = status
    run.undoing = None
    run.error = error
    run.finished_at_ms = turn.at_ms
    run.live = None
    turn.decision.run_changed = True
    turn.decision.finished = RunFinished.trusted(
        {
            "run_id": run.run_id,
            "workflow": run.workflow,
            "version": run.version,
            "tenant": run.tenant,
            "labels": run.labels,
            "status": status,
            "output": run.output,
            "error": error,
            "started_at": moment(run.started_at_ms),
            "finished_at": turn.at,
            "usage": run.usage.to_message(),
        }
    )


def closed(turn: Turn) -> Decision:
    """The decision as it is now."""
    decision = turn.close()
    decision.alarm_at_ms = _alarm(turn.run)
    return decision


def _alarm(run: Run) -> int | None:
    """When the run wants to be called next, whatever happens."""
    if run.status != "running" or run.live is None:
        return None
    wanted_ms = run.deadline_at_ms
    for at_ms in (run.live.next_due(), run.live.settled_at_ms):
        if at_ms is not None and at_ms < wanted_ms:
            wanted_ms = at_ms
    return wanted_ms

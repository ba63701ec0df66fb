"""Owns the state machine: everything that changes a run happens here, from events alone."""

from dataclasses import dataclass
from uuid import UUID

from penstock.contracts.messages import InferenceCompleted, RunRequested, TaskCompleted, ToolCompleted

from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Decision, Run


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
    raise NotImplementedError


def decide(run: Run, program: Program, event: Event) -> Decision:
    """What an event leads to. `run` is updated in place; the same run and event give the same decision."""
    raise NotImplementedError


def restore(run: Run, program: Program) -> None:
    """Derives what is not stored from the run's step rows; a run that was loaded needs it before `decide`."""
    raise NotImplementedError

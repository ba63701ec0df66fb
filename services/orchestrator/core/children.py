"""Owns what is said between a run and its child runs: asking for one, giving it up, hearing of its end."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from penstock.contracts.messages import NextMove, RunFinished, RunRequested, RunSignalled, WorkError

CHILD_CANCELLED: Final = "child_cancelled"

FINAL: Final = frozenset(
    {
        "budget_exceeded",
        "currency_mixed",
        "invalid_input",
        "invalid_request",
        "run_depth_exceeded",
        "unknown_tenant",
        "unknown_workflow",
        "value_too_large",
    }
)
"""Codes of a child's failure that another attempt would meet again."""


@dataclass(frozen=True, slots=True)
class ChildRequested:
    """A child run is asked for by one attempt of a step."""

    request_id: UUID
    step: str
    attempt: int
    message: RunRequested

    def to_json(self) -> bytes:
        """What goes onto the topic."""
        return self.message.to_json()


@dataclass(frozen=True, slots=True)
class ChildAbandoned:
    """A child run whose end nobody awaits any more is to be cancelled."""

    request_id: UUID
    step: str
    message: RunSignalled


@dataclass(frozen=True, slots=True)
class ChildCompleted:
    """A child run ended; to its step this is an outcome like any executor's."""

    step: str
    request_id: UUID
    finished: RunFinished

    @property
    def output(self) -> Any:
        """The run's output; None where it did not complete."""
        return self.finished.output

    @property
    def error(self) -> WorkError | None:
        """Why the run did not complete, with its own code, and whether another one might."""
        end = self.finished
        if end.error is None:
            return None
        said = f"the run {end.run_id!r} of `{end.workflow}` {end.status}: {end.error.message}"
        if end.status == "cancelled":
            return WorkError(code=CHILD_CANCELLED, message=said, next=NextMove.GIVE_UP)
        where = "" if end.error.step is None else f" (at its step {end.error.step})"
        next_move = NextMove.GIVE_UP if end.error.code in FINAL else NextMove.RETRY_AFTER
        return WorkError(code=end.error.code, message=said + where, next=next_move)

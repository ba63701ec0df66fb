"""Owns one event's work on one run: what was touched, asked for and changed while the event was applied."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from penstock.contracts.messages import Failure, StepChange, StepPhase
from services.orchestrator.core.frames import LeafFrame, Live
from services.orchestrator.core.state import Decision, Request, Run, Step

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at_ms: int) -> datetime:
    """Milliseconds since 1970 as the messages carry them."""
    return _EPOCH + timedelta(milliseconds=at_ms)


class RunFailedError(Exception):
    """The whole run is over, whatever its blocks would make of it: a cap or the deadline was reached."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Turn:
    """Collects a decision. Blocks change step rows through it, so that no change goes unwritten."""

    __slots__ = ("at", "at_ms", "decision", "live", "pruned", "run", "touched")

    def __init__(self, run: Run, live: Live, at_ms: int) -> None:
        self.run = run
        self.live = live
        self.at_ms = at_ms
        self.at = moment(at_ms)
        self.decision = Decision(run)
        self.touched: dict[str, Step] = {}
        self.pruned = False

    def changed(self, step: Step, *, preview: Any = None, route: str | None = None) -> None:
        """A step row is to be written, and the read side told."""
        self.touched[step.path] = step
        self.decision.changes.append(
            StepChange(
                step=step.path,
                kind=step.kind,
                phase=step.phase,
                attempt=step.attempt,
                request_id=step.request_id,
                route=route,
                at=self.at,
                preview=preview,
                error=step.error,
            )
        )

    def ask(self, request: Request) -> None:
        """A request is to be sent."""
        self.decision.requests.append(request)

    def cancel_below(self, path: str) -> None:
        """Stops awaiting every leaf under the block at `path`; an empty path means the whole run."""
        for leaf in [leaf for leaf in self.live.leaves.values() if _is_below(leaf.step.path, path)]:
            self._cancel(leaf)

    def _cancel(self, leaf: LeafFrame) -> None:
        step = leaf.step
        del self.live.leaves[step.path]
        step.phase = StepPhase.CANCELLED
        step.due_at_ms = None
        self.pruned = True
        self.changed(step)

    def close(self) -> Decision:
        """The decision, without the requests that the same event made and unmade."""
        decision = self.decision
        decision.steps = list(self.touched.values())
        if self.pruned and decision.requests:
            awaited = {step.request_id for step in decision.steps if step.phase is StepPhase.WAITING}
            decision.requests = [request for request in decision.requests if request.request_id in awaited]
        return decision


def _is_below(path: str, block: str) -> bool:
    return not block or (path.startswith(block) and path[len(block) : len(block) + 1] in ("/", "["))

"""Owns one event's work on one run: what was touched, asked for and changed while the event was applied."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.lookups import whole_in
from penstock.workflow.whole import CONTENTS
from services.orchestrator.core.accounts import abandon, release
from services.orchestrator.core.children import ChildRequested
from services.orchestrator.core.contents import RunContents
from services.orchestrator.core.facts import NO_FACTS, Facts
from services.orchestrator.core.frames import LeafFrame, Live, below
from services.orchestrator.core.routing import Calls, ended
from services.orchestrator.core.state import Change, Decision, Request, Run, Step
from services.orchestrator.core.values import preview

NOT_NEEDED: Final = "its answer is not needed any more"
"""Said to the executor of a request whose branch or run was cancelled."""

MOMENTS_MAX: Final = 256
"""A batch has one time, and its steps' deadlines are few: what was made for one serves the others."""


@lru_cache(maxsize=MOMENTS_MAX)
def moment(at_ms: int) -> datetime:
    """Milliseconds since 1970 as the messages carry them."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)  # exact: a double holds microseconds until the year 2242


@lru_cache(maxsize=MOMENTS_MAX)
def moment_text(at_ms: int) -> str:
    """The same as expressions see it: RFC 3339."""
    return rfc3339(at_ms)


class RunFailedError(Exception):
    """The whole run is over, whatever its blocks would make of it: a cap or the deadline was reached."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Turn:
    """Collects a decision. Blocks change step rows through it, so that no change goes unwritten."""

    # What few events change stands in the class: every event makes a turn.
    calls: Calls | None = None
    """On routes, so far; where there were any."""
    pruned = False
    redriven = False
    restoring = False
    """Whether blocks are entered to find where the run is: nothing may change."""
    culprit: str | None = None

    def __init__(self, run: Run, live: Live, at_ms: int, facts: Facts = NO_FACTS) -> None:
        self.run = run
        self.live = live
        self.at_ms = at_ms
        self.facts = facts
        if live.contents is None and facts.contents is not None:
            # A run that was loaded may hold references anywhere; one that begins now shows them as they come.
            live.contents = RunContents(facts.contents, run.tenant, refers=bool(run.steps))
        self.at = moment(at_ms)
        self.decision = Decision(run)
        self.touched: dict[str, Step] = {}

    def whole(self, value: Any) -> Any:
        """The value with what its references to blobs stand for. Raises ContentNeededError and ExpressionError."""
        return whole_in({CONTENTS: self.live.contents}.__getitem__, value)

    def changed(self, step: Step, *, preview: Any = None, route: str | None = None) -> None:
        """A step row is to be written, and the read side told."""
        self.touched[step.path] = step
        change: Change = {
            "step": step.path,
            "kind": step.kind,
            "phase": step.phase,
            "attempt": step.attempt,
            "at": self.at,
        }
        if step.request_id is not None:
            change["request_id"] = step.request_id
        if route is not None:
            change["route"] = route
            if step.route_reason is not None:
                change["route_reason"] = step.route_reason
        if preview is not None:
            change["preview"] = preview
        if step.error is not None:
            change["error"] = step.error
        self.decision.changes.append(change)

    def pin(self, step: Step) -> None:
        """A row that holds what a block decided, so that it is decided once."""
        self.run.steps[step.path] = step
        self.changed(step, preview=preview(step.output))

    def ask(self, request: Request | ChildRequested) -> None:
        """A request is to be sent."""
        if isinstance(request, ChildRequested):
            self.decision.children.append(request)
        else:
            self.decision.requests.append(request)

    def revives(self, step: Step) -> bool:
        """Whether a step that is over begins again: when its run is redriven, what failed it and what that cancelled.

        Asked of what is entered only: a step in a branch whose failure a best effort made do with stays as it is.
        """
        if self.restoring:
            return False
        if step.phase is StepPhase.CANCELLED:
            # Also one that is entered after the redrive itself: a branch for which there was no room before.
            return True
        return self.redriven and step.phase is StepPhase.FAILED and step.path == self.culprit

    def cancel_below(self, path: str) -> None:
        """Stops awaiting every leaf under the block at `path`; an empty path means the whole run."""
        # Sorted, because a restored run has its leaves in another order than one that was never away.
        unsent = {asked.request_id for asked in (*self.decision.requests, *self.decision.children)}
        for leaf_path in sorted(leaf_path for leaf_path in self.live.leaves if below(leaf_path, path)):
            leaf = self.live.leaves[leaf_path]
            if leaf.step.request_id in unsent:
                release(self, leaf)
            else:
                abandon(self, leaf)
                if leaf.node.undo is not None and leaf.step.phase is StepPhase.WAITING:
                    leaf.step.undo = leaf.node.undo.unsettled(leaf)
            if leaf.step.phase is StepPhase.WAITING:
                ended(self, leaf, "abandoned")
            self._cancel(leaf)

    def _cancel(self, leaf: LeafFrame) -> None:
        step = leaf.step
        del self.live.leaves[step.path]
        leaf.node.give_up(self, step, NOT_NEEDED if leaf.node.undo is None else None)
        step.phase = StepPhase.CANCELLED
        step.due_at_ms = None
        self.pruned = True
        self.changed(step)

    def close(self) -> Decision:
        """The decision, without the requests that the same event made and unmade."""
        decision = self.decision
        decision.steps = list(self.touched.values())
        if self.pruned and (decision.requests or decision.children):
            cancelled = {step.request_id for step in decision.steps if step.phase is StepPhase.CANCELLED}
            unmade = cancelled & {asked.request_id for asked in (*decision.requests, *decision.children)}
            decision.requests = [request for request in decision.requests if request.request_id not in unmade]
            decision.children = [child for child in decision.children if child.request_id not in unmade]
            decision.abandoned = [child for child in decision.abandoned if child.request_id not in unmade]
            decision.cancellations = [each for each in decision.cancellations if each.request_id not in unmade]
        return decision

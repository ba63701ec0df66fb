"""Owns what all leaves are compiled to, and how one is entered; what a request says is the block kinds' own."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

from penstock.contracts.messages import Failure, NextMove, StepPhase, WorkCancelled
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.parts import Leaf, Retry
from penstock.workflow.schemas import Schema
from penstock.workflow.whole import CONTENTS
from services.orchestrator.core.attempts import OUTPUT_INVALID as OUTPUT_INVALID  # a request says what was invalid
from services.orchestrator.core.attempts import begin, due
from services.orchestrator.core.breakers import TierRoute
from services.orchestrator.core.children import ChildRequested
from services.orchestrator.core.frames import Answer, Failed, Frame, LeafFrame, Succeeded
from services.orchestrator.core.state import Request, Step, StepKind
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import VALUE_BYTES_MAX, NotPortableError, bytes_max_of, portable
from services.orchestrator.core.values import TooLargeError as TooLargeError  # what a request raises

if TYPE_CHECKING:
    from services.orchestrator.core.undo import UndoNode


def evaluated(value: Compiled, scope: Scope, field: str) -> Any:
    """A field of a request. Raises ExpressionError, naming the field."""
    try:
        return value(scope)
    except ExpressionError as error:
        raise ExpressionError(f"{field}: {error}") from None


def bounded(value: Any, field: str, scope: Scope | None = None) -> Any:
    """A field of a request that is not too large to send. Raises TooLargeError or ExpressionError.

    With a scope it may be larger where there is a store for it.
    """
    try:
        value, size_bytes = portable(value)
    except NotPortableError as error:
        raise ExpressionError(f"{field}: not portable JSON: {error}") from None
    if size_bytes > VALUE_BYTES_MAX:
        bytes_max = VALUE_BYTES_MAX if scope is None else _bytes_max_in(scope)
        if size_bytes > bytes_max:
            raise TooLargeError(field, size_bytes, bytes_max)
    return value


def sendable(value: Compiled, scope: Scope, field: str) -> Any:
    """What a step asks with. Raises as `bounded` and `evaluated` do."""
    return bounded(evaluated(value, scope, field), field, scope)


def _bytes_max_in(scope: Scope) -> int:
    try:
        return bytes_max_of(scope(CONTENTS))
    except KeyError:
        return VALUE_BYTES_MAX


class LeafNode(ABC):
    """A compiled leaf. `routes` is where its calls can go, in order; empty where there is no choice."""

    __slots__ = ("id", "kind", "output_schema", "retried", "retry", "routes", "step_timeout_ms", "timeout_ms", "undo")

    def __init__(
        self, block: Leaf, kind: StepKind, output_schema: Schema | None, routes: tuple[TierRoute, ...] = ()
    ) -> None:
        self.id = block.id
        self.kind = kind
        self.output_schema = output_schema
        self.routes = routes
        self.retry: Retry = block.retry
        self.retried = frozenset(NextMove(move) for move in block.retry.on)
        self.timeout_ms = max(1, round(block.timeout_seconds * 1000))
        whole = block.step_timeout_seconds
        self.undo: UndoNode | None = None
        self.step_timeout_ms = None if whole is None else max(1, round(whole * 1000))

    @abstractmethod
    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> Request | ChildRequested:
        """What to ask for. Raises ExpressionError or TooLargeError, naming the field."""

    def ask(self, turn: Turn, leaf: LeafFrame, attribution: dict[str, Any]) -> Request | ChildRequested:  # noqa: ARG002  # a child run depends on its parent's
        """The request of the next attempt. Raises as `request` does, or RefusedError."""
        return self.request(attribution, leaf.parent.find, leaf.step)

    def at_once(self, step: Step) -> Any:  # noqa: ARG002  # for kinds that are not waited for
        """The output where the step is over as soon as it has asked; None: its answer is awaited."""
        return None

    def give_up(self, turn: Turn, step: Step, reason: str | None) -> None:
        """The step stops waiting, if it waits: its executor is told why, and stops.

        Not where the answer will be heard all the same, because an undo hangs on it (`reason` is None), and not an undo
        itself: one that is half done helps nobody.
        """
        if reason is None or step.phase is not StepPhase.WAITING or step.request_id is None or step.kind == "undo":
            return
        run = turn.run
        cancelled = {
            "request_id": step.request_id,
            "tenant": run.tenant,
            "run_key": run.key,
            "run_id": run.run_id,
            "step": step.path,
            "attempt": step.attempt,
            "reason": reason,
            "at": turn.at,
        }
        turn.decision.cancellations.append(WorkCancelled.trusted(cancelled))

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Asks for the first attempt, or answers from the row of one that was asked for before."""
        step = turn.run.steps.get(path)
        if step is None:
            step = turn.run.steps[path] = Step(path, self.kind, StepPhase.WAITING)
            return begin(turn, LeafFrame(self, step, parent, slot))
        if turn.revives(step):
            # Due at once; asked for when everything is entered, in case a sibling's failure cancels it again.
            step.phase = StepPhase.RETRYING
            step.due_at_ms = turn.at_ms
            step.tries = step.repairs = step.route = 0
            step.give_up_at_ms = None if self.step_timeout_ms is None else turn.at_ms + self.step_timeout_ms
            turn.touched[step.path] = step
        match step.phase:
            case StepPhase.COMPLETED:
                return Succeeded(step.output)
            case StepPhase.FAILED:
                return Failed(cast(Failure, step.error))
            case StepPhase.CANCELLED:
                return None  # nobody awaits it; the failure that cancelled it speaks for its block
            case StepPhase.WAITING | StepPhase.RETRYING:
                turn.live.add(LeafFrame(self, step, parent, slot))
                return None

    def due(self, turn: Turn, leaf: LeafFrame) -> Answer:
        """The time has come for which the leaf's row waits."""
        return due(turn, leaf)

    def route_label(self, step: Step) -> str | None:
        """The route of a step's present attempt, as people read it."""
        if not self.routes:
            return None
        return self.routes[step.route].label

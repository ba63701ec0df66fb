"""Owns the attempts of a leaf: asking, timeouts, retries, fallbacks, its end.

All that is decided about one step's attempts is decided here; what a request says is the block kinds' own.
"""

from abc import ABC, abstractmethod
from typing import Any, Final, cast
from uuid import UUID

from penstock.contracts import ids
from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import (
    Failure,
    InferenceCompleted,
    NextMove,
    StepPhase,
    TaskCompleted,
    ToolCompleted,
    WorkError,
)
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.parts import Leaf, Retry, Route
from penstock.workflow.schemas import Schema
from services.orchestrator.core.budget import check_budget, count_usage
from services.orchestrator.core.frames import Answer, Failed, Frame, LeafFrame, Succeeded
from services.orchestrator.core.state import Request, Step, StepKind
from services.orchestrator.core.turn import RunFailedError, Turn, moment
from services.orchestrator.core.values import PREVIEW_BYTES_MAX, VALUE_BYTES_MAX, NotPortableError, portable, shortened

Completed = InferenceCompleted | ToolCompleted | TaskCompleted

OUTPUT_INVALID: Final = "output_invalid"
VALUE_TOO_LARGE: Final = "value_too_large"
_JITTER_BITS: Final = 48


class TooLargeError(ValueError):
    """What a request would carry is beyond VALUE_BYTES_MAX; the message names the field."""

    def __init__(self, field: str, size_bytes: int) -> None:
        super().__init__(f"{field} has {size_bytes} bytes; at most {VALUE_BYTES_MAX} can be sent")


def evaluated(value: Compiled, scope: Scope, field: str) -> Any:
    """A field of a request. Raises ExpressionError, naming the field."""
    try:
        return value(scope)
    except ExpressionError as error:
        raise ExpressionError(f"{field}: {error}") from None


def bounded(value: Any, field: str) -> Any:
    """A field of a request that is not too large to send. Raises TooLargeError or ExpressionError."""
    try:
        value, size_bytes = portable(value)
    except NotPortableError as error:
        raise ExpressionError(f"{field}: not portable JSON: {error}") from None
    if size_bytes > VALUE_BYTES_MAX:
        raise TooLargeError(field, size_bytes)
    return value


class LeafNode(ABC):
    """A compiled leaf. `routes` is where its calls can go, in order; empty where there is no choice."""

    __slots__ = ("id", "kind", "output_schema", "retry", "routes", "timeout_ms")

    def __init__(
        self, block: Leaf, kind: StepKind, output_schema: Schema | None, routes: tuple[Route, ...] = ()
    ) -> None:
        self.id = block.id
        self.kind = kind
        self.output_schema = output_schema
        self.routes = routes
        self.retry: Retry = block.retry
        self.timeout_ms = max(1, round(block.timeout_seconds * 1000))

    @abstractmethod
    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> Request:
        """What to ask for. Raises ExpressionError or TooLargeError, naming the field."""

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Asks for the first attempt, or answers from the row of one that was asked for before."""
        step = turn.run.steps.get(path)
        if step is None:
            step = turn.run.steps[path] = Step(path, self.kind, StepPhase.WAITING)
            return dispatch(turn, LeafFrame(self, step, parent, slot))
        if turn.revives(step):
            # Due at once; asked for when everything is entered, in case a sibling's failure cancels it again.
            step.phase = StepPhase.RETRYING
            step.due_at_ms = turn.at_ms
            step.tries = step.repairs = step.route = 0
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

    def route_label(self, step: Step) -> str | None:
        """The route of a step's present attempt, as people read it."""
        if not self.routes:
            return None
        route = self.routes[step.route]
        return f"{route.pool}/{route.model}"


def dispatch(turn: Turn, leaf: LeafFrame) -> Answer:
    """Asks for the next attempt of a leaf. Raises RunFailedError where a cap of the run forbids it."""
    run, node, step = turn.run, leaf.node, leaf.step
    _check_caps(turn, leaf)
    attempt = step.attempt + 1
    request_id = ids.request_id(run.key, step.path, attempt)
    due_at_ms = turn.at_ms + node.timeout_ms
    attribution = {
        "request_id": request_id,
        "tenant": run.tenant,
        "run_key": run.key,
        "run_id": run.run_id,
        "home": run.home,
        "workflow": run.workflow,
        "version": run.version,
        "step": step.path,
        "attempt": attempt,
        "labels": run.labels,
        "deadline": moment(min(due_at_ms, run.deadline_at_ms)),
        "priority": run.priority,
    }
    try:
        request = node.request(attribution, leaf.parent.find, step)
    except ExpressionError as error:
        return _failed(turn, leaf, Failure(code="expression_failed", message=str(error), step=step.path))
    except TooLargeError as error:
        return _failed(turn, leaf, Failure(code=VALUE_TOO_LARGE, message=str(error), step=step.path))
    step.phase = StepPhase.WAITING
    step.attempt = attempt
    step.tries += 1
    step.request_id = request_id
    step.due_at_ms = due_at_ms
    step.dispatched_at_ms = turn.at_ms
    turn.live.dispatched += 1
    turn.live.add(leaf)
    turn.ask(request)
    turn.changed(step, route=node.route_label(step))
    return None


def answered(turn: Turn, leaf: LeafFrame, message: Completed) -> Answer:
    """Takes the answer to the awaited attempt."""
    if isinstance(message, InferenceCompleted):
        count_usage(turn, leaf.step, message)
    if message.error is not None:
        return _missed(turn, leaf, message.error)
    try:
        output, size_bytes = portable(message.output)
    except NotPortableError as error:
        return _missed(turn, leaf, _invalid(f"the output is not portable JSON: {error}"))
    if size_bytes > VALUE_BYTES_MAX:
        text = f"the output has {size_bytes} bytes; a step may return {VALUE_BYTES_MAX}"
        return _missed(turn, leaf, WorkError(code=VALUE_TOO_LARGE, message=text, next=NextMove.GIVE_UP))
    schema = leaf.node.output_schema
    fault = schema.fault(output) if schema is not None else None
    if fault is not None:
        return _missed(turn, leaf, _invalid(f"the output misses its schema at {fault}"))
    step = leaf.step
    step.output = output
    step.error = None
    _end(turn, leaf, StepPhase.COMPLETED)
    turn.changed(step, preview=output if size_bytes <= PREVIEW_BYTES_MAX else None, route=leaf.node.route_label(step))
    return Succeeded(output)


def due(turn: Turn, leaf: LeafFrame) -> Answer:
    """A leaf's time has come: the next attempt where one was put off, else the awaited one took too long."""
    if leaf.step.phase is StepPhase.RETRYING:
        return dispatch(turn, leaf)
    text = f"no answer within {leaf.node.timeout_ms / 1000:g} s"
    return _missed(turn, leaf, WorkError(code="timeout", message=text, next=NextMove.RETRY_ELSEWHERE))


def _check_caps(turn: Turn, leaf: LeafFrame) -> None:
    run, step = turn.run, leaf.step
    if turn.at_ms >= run.deadline_at_ms:
        raise RunFailedError(deadline_exceeded(run.deadline_at_ms))
    failure: Failure | None = None
    if turn.live.dispatched >= turn.live.steps_max:
        text = (
            f"the run asked for {turn.live.dispatched} attempts, its workflow's steps_max; raise it or look for a loop"
        )
        failure = Failure(code="steps_exceeded", message=text, step=step.path)
    elif leaf.node.kind == "model":
        failure = check_budget(run, step.path)
    if failure is not None:
        _failed(turn, leaf, failure)
        raise RunFailedError(failure)


def deadline_exceeded(deadline_at_ms: int) -> Failure:
    """What a run that is not over at its deadline fails with."""
    return Failure(code="deadline_exceeded", message=f"the run was not over at its deadline, {rfc3339(deadline_at_ms)}")


def _missed(turn: Turn, leaf: LeafFrame, error: WorkError) -> Answer:
    """An attempt failed: asks again, here or elsewhere, now or later, or gives up."""
    node, step = leaf.node, leaf.step
    message = shortened(error.message)
    if error.next is NextMove.GIVE_UP or step.tries >= node.retry.attempts:
        tried = f" (attempt {step.tries} of {node.retry.attempts})" if error.next is not NextMove.GIVE_UP else ""
        return _failed(turn, leaf, Failure(code=error.code, message=message + tried, step=step.path))
    label = node.route_label(step)
    step.error = Failure(code=error.code, message=message, step=step.path)
    wait_ms = _move_on(turn, leaf, error)
    step.phase = StepPhase.RETRYING
    step.due_at_ms = turn.at_ms + wait_ms
    turn.changed(step, route=label)
    if wait_ms == 0:
        return dispatch(turn, leaf)
    turn.live.add(leaf)
    return None


def _move_on(turn: Turn, leaf: LeafFrame, error: WorkError) -> int:
    """Points the step at its next route and says how long to wait for it."""
    node, step = leaf.node, leaf.step
    match error.next:
        case NextMove.REPAIR_OUTPUT if step.repairs == 0:
            step.repairs = 1
            return 0
        case NextMove.RETRY_ELSEWHERE | NextMove.REPAIR_OUTPUT if step.route + 1 < len(node.routes):
            step.route += 1
            step.repairs = 0
            return 0
        case NextMove.RETRY_AFTER if error.retry_after_ms is not None:
            return min(error.retry_after_ms, max(0, turn.run.deadline_at_ms - turn.at_ms))
        case NextMove.RETRY_AFTER | NextMove.RETRY_ELSEWHERE | NextMove.REPAIR_OUTPUT | NextMove.GIVE_UP:
            return backoff_ms(node.retry, step.tries + 1, ids.request_id(turn.run.key, step.path, step.attempt + 1))


def backoff_ms(retry: Retry, attempt: int, request_id: UUID) -> int:
    """Exponential with full jitter; the jitter is the request id's, so that a replay waits as long."""
    ceiling_ms = min(retry.max_ms, retry.initial_ms * 2 ** (attempt - 2))
    fraction = (request_id.int & ((1 << _JITTER_BITS) - 1)) / (1 << _JITTER_BITS)
    return int(fraction * (ceiling_ms + 1))


def _failed(turn: Turn, leaf: LeafFrame, failure: Failure) -> Failed:
    leaf.step.error = failure
    _end(turn, leaf, StepPhase.FAILED)
    turn.changed(leaf.step, route=leaf.node.route_label(leaf.step))
    return Failed(failure)


def _end(turn: Turn, leaf: LeafFrame, phase: StepPhase) -> None:
    step = leaf.step
    turn.live.leaves.pop(step.path, None)
    step.phase = phase
    step.due_at_ms = None


def _invalid(message: str) -> WorkError:
    return WorkError(code=OUTPUT_INVALID, message=message, next=NextMove.REPAIR_OUTPUT)

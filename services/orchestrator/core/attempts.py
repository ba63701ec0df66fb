"""Owns the attempts of a leaf: asking, timeouts, retries, fallbacks, its end.

All that is decided about one step's attempts is decided here.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from penstock.contracts import ids
from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import (
    Failure,
    InferenceCompleted,
    InferenceRequested,
    NextMove,
    StepPhase,
    TaskCompleted,
    ToolCompleted,
    WorkError,
)
from penstock.workflow.expressions import ExpressionError
from penstock.workflow.parts import Retry
from services.orchestrator.core.accounts import abandon
from services.orchestrator.core.budget import reserve, settle, settle_child
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.frames import Answer, Failed, LeafFrame, Succeeded
from services.orchestrator.core.routing import Wait, asked, choose, dead_end, ended, how_it_went
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import RunFailedError, Turn, moment
from services.orchestrator.core.values import (
    BLOB_UNREADABLE,
    PREVIEW_BYTES_MAX,
    VALUE_BYTES_MAX,
    VALUE_TOO_LARGE,
    NotPortableError,
    RefusedError,
    portable,
    shortened,
)

if TYPE_CHECKING:
    from services.orchestrator.core.leaf import LeafNode

Completed = InferenceCompleted | ToolCompleted | TaskCompleted | ChildCompleted

OUTPUT_INVALID: Final = "output_invalid"
NO_ANSWER: Final = "no answer came in time"
_JITTER_BITS: Final = 48


def begin(turn: Turn, leaf: LeafFrame) -> Answer:
    """Asks for the first attempt of a leaf."""
    whole_ms = leaf.node.step_timeout_ms
    if whole_ms is not None:
        leaf.step.give_up_at_ms = turn.at_ms + whole_ms
    return dispatch(turn, leaf)


def dispatch(turn: Turn, leaf: LeafFrame, *, just_failed: bool = False) -> Answer:
    """Asks for the next attempt of a leaf; `just_failed` where one did by this event.

    Raises RunFailedError where a cap of the run forbids it.
    """
    run, node, step = turn.run, leaf.node, leaf.step
    _check_caps(turn, leaf)
    if node.routes:
        due_at_ms = _route(turn, leaf, just_failed=just_failed)
        if due_at_ms is not None:
            return _put_off(turn, leaf, due_at_ms)
    attempt = step.attempt + 1
    request_id = ids.request_id(run.key, step.path, attempt)
    due_at_ms = turn.at_ms + node.timeout_ms
    if step.give_up_at_ms is not None and step.give_up_at_ms < due_at_ms:
        due_at_ms = step.give_up_at_ms
    attribution = {
        **turn.live.attribution,
        "request_id": request_id,
        "step": step.path,
        "attempt": attempt,
        "deadline": moment(min(due_at_ms, run.deadline_at_ms)),
    }
    try:
        request = node.ask(turn, leaf, attribution)
    except ExpressionError as error:
        return _failed(turn, leaf, Failure(code="expression_failed", message=str(error), step=step.path))
    except RefusedError as error:
        return _failed(turn, leaf, Failure(code=error.code, message=str(error), step=step.path))
    except RunFailedError as error:
        _failed(turn, leaf, error.failure)
        raise
    if isinstance(request, InferenceRequested):
        failure = _reserved(turn, leaf, request)
        if failure is not None:
            return failure
    step.phase = StepPhase.WAITING
    step.attempt = attempt
    step.tries += 1
    step.request_id = request_id
    step.due_at_ms = due_at_ms
    step.dispatched_at_ms = turn.at_ms
    turn.live.dispatched += step.kind != "undo"
    turn.ask(request)
    if node.routes:
        asked(turn, leaf, node.routes)
    at_once = node.at_once(step)
    if at_once is not None:
        return _completed(turn, leaf, at_once, at_once)
    turn.live.add(leaf)
    turn.changed(step, route=node.route_label(step))
    return None


def answered(turn: Turn, leaf: LeafFrame, message: Completed) -> Answer:
    """Takes the answer to the awaited attempt."""
    if isinstance(message, InferenceCompleted):
        ended(turn, leaf, how_it_went(message.error))
        settle(turn, leaf, message)
    elif isinstance(message, ChildCompleted):
        settle_child(turn, leaf, message.finished.usage)
    if message.error is not None:
        return _missed(turn, leaf, message.error)
    try:
        output, size_bytes = portable(message.output, turn.live.contents)
    except NotPortableError as error:
        return _missed(turn, leaf, _invalid(f"the output is not portable JSON: {error}"))
    if size_bytes > VALUE_BYTES_MAX:
        text = f"the output has {size_bytes} bytes; a step may return {VALUE_BYTES_MAX}"
        return _missed(turn, leaf, WorkError(code=VALUE_TOO_LARGE, message=text, next=NextMove.GIVE_UP))
    schema = leaf.node.output_schema
    try:
        fault = schema.fault(leaf.parent.whole(output)) if schema is not None else None
    except ExpressionError as error:
        return _missed(turn, leaf, WorkError(code=BLOB_UNREADABLE, message=str(error), next=NextMove.RETRY_AFTER))
    if fault is not None:
        return _missed(turn, leaf, _invalid(f"the output misses its schema at {fault}"))
    return _completed(turn, leaf, output, output if size_bytes <= PREVIEW_BYTES_MAX else None)


def _completed(turn: Turn, leaf: LeafFrame, output: Any, preview: Any) -> Succeeded:
    step = leaf.step
    step.output = output
    step.error = None
    _end(turn, leaf, StepPhase.COMPLETED)
    if leaf.node.undo is not None:
        turn.live.undo_order += 1
        step.undo = leaf.node.undo.pinned(turn.live.undo_order, leaf.parent.find, output)
    turn.changed(step, preview=preview, route=leaf.node.route_label(step))
    return Succeeded(output)


def due(turn: Turn, leaf: LeafFrame) -> Answer:
    """A leaf's time has come: the next attempt where one was put off, else the awaited one took too long."""
    step = leaf.step
    abandon(turn, leaf)
    leaf.node.give_up(turn, step, NO_ANSWER)
    out_of_time = step.give_up_at_ms is not None and turn.at_ms >= step.give_up_at_ms
    if step.phase is StepPhase.WAITING:
        ended(turn, leaf, "abandoned" if out_of_time else "failed")
    if out_of_time:
        return _out_of_time(turn, leaf, step.error)
    if step.phase is StepPhase.RETRYING:
        return dispatch(turn, leaf)
    text = f"no answer within {leaf.node.timeout_ms / 1000:g} s, the step's timeout_seconds"
    return _missed(turn, leaf, WorkError(code="timeout", message=text, next=NextMove.RETRY_ELSEWHERE))


def _route(turn: Turn, leaf: LeafFrame, *, just_failed: bool) -> int | None:
    """Pins the route of the next attempt in the step's row; where there is none now, says when there may be."""
    step = leaf.step
    chosen = choose(leaf.node.routes, leaf, turn)
    if isinstance(chosen, Wait):
        step.route_reason = "all_open"
        return chosen.until_ms
    if chosen.wrapped and just_failed:
        # All further routes are left alone, and this one failed the step before: not again without a pause.
        request_id = ids.request_id(turn.run.key, step.path, step.attempt + 1)
        return turn.at_ms + max(1, backoff_ms(leaf.node.retry, step.tries + 1, request_id))
    if chosen.route != step.route:
        step.route, step.repairs = chosen.route, 0
    step.route_reason = chosen.reason
    return None


def _put_off(turn: Turn, leaf: LeafFrame, due_at_ms: int) -> Answer:
    """Waits for a route, within the step's limits."""
    step = leaf.step
    own_ms = step.give_up_at_ms
    latest_ms = turn.run.deadline_at_ms if own_ms is None else min(own_ms, turn.run.deadline_at_ms)
    if due_at_ms >= latest_ms:
        routes = ", ".join(route.label for route in leaf.node.routes)
        cap = "deadline" if latest_ms == turn.run.deadline_at_ms else "step_timeout_seconds"
        text = (
            f"breakers are open: no route of the tier ({routes}) may be tried before {rfc3339(due_at_ms)}, which is "
            f"beyond the {cap} at {rfc3339(latest_ms)}; add a route to the tier, lower its breaker's open_seconds, or "
            f"raise the {cap}"
        )
        return _failed(turn, leaf, Failure(code="breaker_open", message=text, step=step.path))
    step.phase = StepPhase.RETRYING
    step.due_at_ms = due_at_ms
    turn.changed(step, route=leaf.node.route_label(step))
    turn.live.add(leaf)
    return None


def _check_caps(turn: Turn, leaf: LeafFrame) -> None:
    run, step = turn.run, leaf.step
    if turn.at_ms >= run.deadline_at_ms:
        raise RunFailedError(deadline_exceeded(turn))
    if turn.live.dispatched >= turn.live.steps_max and step.kind != "undo":
        text = (
            f"the run asked for {turn.live.dispatched} attempts, its steps_max: raise `steps_max` of the workflow "
            f"`{run.workflow}`, or look for a loop"
        )
        failure = Failure(code="steps_exceeded", message=text, step=step.path)
        _failed(turn, leaf, failure)
        raise RunFailedError(failure)


def _reserved(turn: Turn, leaf: LeafFrame, request: InferenceRequested) -> Failed | None:
    """Sets aside what the call uses at most. Raises RunFailedError where the run has no room for it."""
    try:
        failure = reserve(turn, leaf, request)
    except RunFailedError as error:
        _failed(turn, leaf, error.failure)
        raise
    return None if failure is None else _failed(turn, leaf, failure)


def deadline_exceeded(turn: Turn) -> Failure:
    """What a run that is not over at its deadline fails with."""
    run, whole_ms = turn.run, turn.live.deadline_ms
    # A redriven run has its workflow's whole time again; its own deadline is only ever earlier than that.
    own = run.deadline_at_ms < run.started_at_ms + whole_ms
    where = "give the run's request a later `deadline`"
    if not own:
        where = f"raise `deadline_seconds` ({whole_ms / 1000:g}) of the workflow `{run.workflow}`"
    text = f"the run was not over at its deadline, {rfc3339(run.deadline_at_ms)}: {where}, or redrive it"
    return Failure(code="deadline_exceeded", message=text)


def _missed(turn: Turn, leaf: LeafFrame, error: WorkError) -> Answer:
    """An attempt failed: asks again, here or elsewhere, now or later, or gives up."""
    node, step = leaf.node, leaf.step
    message = shortened(error.message)
    final = _final(node, step, error)
    if final is not None:
        return _failed(turn, leaf, Failure(code=error.code, message=message + final, step=step.path))
    failure = Failure(code=error.code, message=message, step=step.path)
    move = _next_move(turn, leaf, error)
    if step.give_up_at_ms is not None and turn.at_ms + move.wait_ms >= step.give_up_at_ms:
        return _out_of_time(turn, leaf, failure)
    label = node.route_label(step)
    step.error = failure
    step.route, step.repairs = move.route, move.repairs
    step.phase = StepPhase.RETRYING
    step.due_at_ms = turn.at_ms + move.wait_ms
    turn.changed(step, route=label)
    if move.wait_ms == 0:
        return dispatch(turn, leaf, just_failed=True)
    turn.live.add(leaf)
    return None


def _final(node: "LeafNode", step: Step, error: WorkError) -> str | None:
    """Why no further attempt follows, to be said after the failure; None: one does."""
    tries, next_move = step.tries, error.next
    if next_move is NextMove.GIVE_UP:
        return ""
    if tries >= node.retry.attempts:
        return f" (attempt {tries} of {node.retry.attempts})"
    if next_move not in node.retried:
        return f" (attempt {tries} of {node.retry.attempts}; the step's retry.on does not list {next_move.value})"
    if dead_end(node.routes, step.route, error):
        return f" (attempt {tries} of {node.retry.attempts}; the tier has no further route, and here it fails alike)"
    return None


class _Move(NamedTuple):
    """How the next attempt is made: after how long, on which route, as which repair there."""

    wait_ms: int
    route: int
    repairs: int


def _next_move(turn: Turn, leaf: LeafFrame, error: WorkError) -> _Move:
    node, step = leaf.node, leaf.step
    match error.next:
        case NextMove.REPAIR_OUTPUT if step.repairs == 0:
            return _Move(0, step.route, 1)
        case NextMove.RETRY_ELSEWHERE | NextMove.REPAIR_OUTPUT if step.route + 1 < len(node.routes):
            return _Move(0, step.route + 1, 0)
        case NextMove.RETRY_AFTER if error.retry_after_ms is not None:
            wait_ms = min(error.retry_after_ms, max(0, turn.run.deadline_at_ms - turn.at_ms))
        case NextMove.RETRY_AFTER | NextMove.RETRY_ELSEWHERE | NextMove.REPAIR_OUTPUT | NextMove.GIVE_UP:
            request_id = ids.request_id(turn.run.key, step.path, step.attempt + 1)
            wait_ms = backoff_ms(node.retry, step.tries + 1, request_id)
    return _Move(wait_ms, step.route, step.repairs)


def _out_of_time(turn: Turn, leaf: LeafFrame, last: Failure | None) -> Failed:
    """The step's own time is over, or would be before its next attempt."""
    node, step = leaf.node, leaf.step
    text = (
        f"not over within {(node.step_timeout_ms or 0) / 1000:g} s, its step_timeout_seconds, "
        f"at attempt {step.tries} of {node.retry.attempts}; raise step_timeout_seconds of the step `{node.id}`"
    )
    if last is not None:
        text += f". The attempt before: {last.code}: {last.message}"
    return _failed(turn, leaf, Failure(code="step_timeout", message=text, step=step.path))


def backoff_ms(retry: Retry, attempt: int, request_id: UUID) -> int:
    """Exponential with full jitter; the jitter is the request id's, so that a replay waits as long."""
    ceiling_ms = min(retry.max_ms, retry.initial_ms * 2 ** (attempt - 2))
    fraction = (request_id.int & ((1 << _JITTER_BITS) - 1)) / (1 << _JITTER_BITS)
    return int(fraction * (ceiling_ms + 1))


def _failed(turn: Turn, leaf: LeafFrame, failure: Failure) -> Failed:
    if leaf.step.kind == "undo":
        failure = Failure(code="undo_failed", message=f"{failure.code}: {failure.message}", step=failure.step)
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

"""Owns the beginning of a run: what a request leads to, and why one cannot be served."""

from typing import Final, Literal
from uuid import UUID

from penstock.contracts.messages import Budget, Failure, RunRequested, RunStart
from penstock.workflow.expressions import ExpressionError
from services.orchestrator.core.budget import effective, mixed_currencies
from services.orchestrator.core.ending import applied, end, finish
from services.orchestrator.core.entering import derived, enter
from services.orchestrator.core.facts import NO_FACTS, Facts
from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Decision, Run
from services.orchestrator.core.turn import Turn, moment
from services.orchestrator.core.values import BLOB_UNREADABLE, VALUE_BYTES_MAX, NotPortableError, portable, preview

CANCELLED: Final = "cancelled"
UNKNOWN_WORKFLOW: Final = "unknown_workflow"
REJECTIONS: Final = frozenset({"invalid_request", "unknown_tenant", CANCELLED})
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
    facts: Facts = NO_FACTS,
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
        budget=effective(request.budget, None if program is None else program.budget),
        deadline_at_ms=_deadline(request, program, at_ms),
        traceparent=traceparent,
        started_at_ms=at_ms,
        parent=request.parent,
    )
    turn = Turn(run, derived(run, program), at_ms, facts)
    turn.decision.run_changed = True
    fault = refused(turn, program, request.budget)
    turn.decision.start = RunStart.trusted(
        {
            "input_preview": None if fault is not None else preview(run.input),
            "priority": run.priority,
            "deadline": moment(run.deadline_at_ms),
            "budget": run.budget,
            "started_at": turn.at,
            "parent": run.parent,
        }
    )
    return applied(turn, lambda: begin(turn, program, fault))


def reject(
    request: RunRequested, failure: Failure, *, key: UUID, tenant: str, run_id: str, home: int, at_ms: int
) -> Decision:
    """A run that is over before anything else about it is looked at: the request can be answered, not served.

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
        parent=request.parent,
    )
    turn = Turn(run, derived(run, None), at_ms)
    turn.decision.start = RunStart(priority=run.priority, started_at=turn.at, parent=run.parent)
    status: Literal["failed", "cancelled"] = "cancelled" if failure.code == CANCELLED else "failed"
    return applied(turn, lambda: end(turn, status, failure))


def rejected(run: Run) -> bool:
    """Whether a run was never more than an answer."""
    return run.error is not None and run.error.code in REJECTIONS


def unknown(run: Run) -> bool:
    """Whether a run has no version: what its request named meant nothing when it came."""
    return run.status == "failed" and run.error is not None and run.error.code == UNKNOWN_WORKFLOW and not run.steps


def asked_for(run: Run) -> str:
    """The workflow of a run as a request names it."""
    return f"{run.workflow}@{run.version}" if run.version else run.workflow


def _deadline(request: RunRequested, program: Program | None, at_ms: int) -> int:
    latest_ms = at_ms + (0 if program is None else program.deadline_ms)
    if request.deadline is None:
        return latest_ms
    return min(latest_ms, round(request.deadline.timestamp() * 1000))


def _budget_fault(own: Budget | None, program: Program) -> Failure | None:
    ceiling = program.budget
    if own is None or own.cost is None or ceiling is None or ceiling.cost is None:
        return None
    if own.cost.currency == ceiling.cost.currency:
        return None
    return mixed_currencies(own.cost.currency, ceiling.cost.currency, None)


def refused(turn: Turn, program: Program | None, own: Budget | None) -> Failure | None:
    """Why a run cannot begin at all. `own` is the budget that its request brought."""
    run = turn.run
    if program is None:
        text = f"no workflow `{asked_for(run)}` is published; publish it, then redrive the run"
        return Failure(code=UNKNOWN_WORKFLOW, message=text)
    mixed = _budget_fault(own, program)
    if mixed is not None:
        return mixed
    try:
        run.input, size_bytes = portable(run.input, turn.live.contents)
    except NotPortableError as error:
        return Failure(code="invalid_input", message=f"the input is not portable JSON: {error}")
    if size_bytes > VALUE_BYTES_MAX:
        text = f"the input has {size_bytes} bytes; a run may take {VALUE_BYTES_MAX}"
        return Failure(code="value_too_large", message=text)
    try:
        fault = program.input_schema.fault(turn.whole(run.input)) if program.input_schema is not None else None
    except ExpressionError as error:
        return Failure(code=BLOB_UNREADABLE, message=f"the input cannot be read: {error}")
    if fault is not None:
        return Failure(code="invalid_input", message=f"the input misses the workflow's schema at {fault}")
    return None


def begin(turn: Turn, program: Program | None, fault: Failure | None) -> None:
    """The first blocks of a run, or its end."""
    if fault is not None or program is None:
        end(turn, "failed", fault)
        return
    answer = enter(turn, program.root)
    if answer is not None:
        finish(turn, answer)

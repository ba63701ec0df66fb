"""Owns the translation between runs and rows: every column of `run` and `step` is named here and in the SQL only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID

import orjson

from penstock.contracts.children import ParentStep
from penstock.contracts.ids import request_id
from penstock.contracts.messages import Budget, Failure, Lane, StepPhase
from services.orchestrator.core.state import Amounts, Run, Step, Unanswered, Undo, Usage
from services.orchestrator.shell.store import Batch, Charge, Slice, SliceClaim

Row = Mapping[str, Any]

_UNDOING: Final[dict[str, Literal["failed", "cancelled"]]] = {
    "undoing_failed": "failed",
    "undoing_cancelled": "cancelled",
}
"""What the column `status` says of a run that undoes."""


def batch_columns(batch: Batch) -> list[list[Any]]:
    """The parameters of `commit_batch`, one list per column."""
    advances, started, changed, steps = batch.advances, batch.started, batch.changed, batch.steps
    return [
        [a.home for a in advances],
        [a.topic for a in advances],
        [a.expected_offset for a in advances],
        [a.next_offset for a in advances],
        [a.owner_epoch for a in advances],
        [run.key for run in started],
        [run.tenant for run in started],
        [run.run_id for run in started],
        [run.workflow for run in started],
        [run.version for run in started],
        [run.home for run in started],
        [_status(run) for run in started],
        [_request_of(run) for run in started],
        [run.sequence for run in started],
        [run.started_at_ms for run in started],
        [run.finished_at_ms for run in started],
        [_run_output(run) for run in started],
        [_failure(run.error) for run in started],
        [run.deadline_at_ms for run in started],
        [run.redrives for run in started],
        [run.key for run in changed],
        [_status(run) for run in changed],
        [run.sequence for run in changed],
        [run.finished_at_ms for run in changed],
        [_run_output(run) for run in changed],
        [_failure(run.error) for run in changed],
        [run.deadline_at_ms for run in changed],
        [run.redrives for run in changed],
        [run.key for run, _ in steps],
        [step.path for _, step in steps],
        [step.kind for _, step in steps],
        [step.phase for _, step in steps],  # a str: its `value` is looked up by Python code
        [step.attempt for _, step in steps],
        [step.tries for _, step in steps],
        [step.repairs for _, step in steps],
        [step.route for _, step in steps],
        [step.due_at_ms for _, step in steps],
        [step.dispatched_at_ms for _, step in steps],
        [_step_output(step) for _, step in steps],
        [_failure(step.error) for _, step in steps],
        [_usage(run, step) for run, step in steps],
        [run.sequence for run, _ in steps],
        batch.alarms_cleared,
        [alarm.run_key for alarm in batch.alarms_set],
        [alarm.home for alarm in batch.alarms_set],
        [alarm.due_at_ms for alarm in batch.alarms_set],
        [home for home, _ in batch.acknowledged],
        [row for _, row in batch.acknowledged],
        [home for home, _ in batch.outbox],
        [packed for _, packed in batch.outbox],
        [_terms(step) for _, step in steps],
        *_charge_columns(batch.charges),
    ]


def _charge_columns(charges: Sequence[Charge]) -> list[list[Any]]:
    return [
        [charge.tenant for charge in charges],
        [charge.day for charge in charges],
        [charge.home for charge in charges],
        [charge.amounts.model_calls for charge in charges],
        [charge.amounts.tokens for charge in charges],
        [charge.amounts.cost for charge in charges],
    ]


def claim_columns(claims: Sequence[SliceClaim]) -> list[list[Any]]:
    """The parameters of `claim_slices`, one list per column."""
    return [
        [claim.tenant for claim in claims],
        [claim.day for claim in claims],
        [claim.home for claim in claims],
        [claim.wanted.model_calls for claim in claims],
        [claim.wanted.tokens for claim in claims],
        [claim.wanted.cost for claim in claims],
        [claim.caps.model_calls for claim in claims],
        [claim.caps.tokens for claim in claims],
        [None if claim.caps.cost is None else claim.caps.cost.amount for claim in claims],
    ]


def slice_from_row(row: Row) -> Slice:
    """What a claim was given."""
    given, granted, used = (
        Amounts(row[f"{what}_model_calls"], row[f"{what}_tokens"], row[f"{what}_cost"])
        for what in ("given", "granted", "used")
    )
    return Slice(given, granted, used)


def run_from_row(row: Row) -> Run:
    """A run without its steps."""
    request = orjson.loads(row["request"])
    undoing = _UNDOING.get(row["status"])
    return Run(
        key=plain_uuid(row["run_key"]),
        tenant=row["tenant"],
        run_id=row["run_id"],
        workflow=row["workflow"],
        version=row["version"],
        home=row["home"],
        status="running" if undoing else row["status"],
        undoing=undoing,
        input=request["input"],
        labels=request["labels"],
        priority=Lane(request["priority"]),
        budget=Budget.model_validate(request["budget"]) if request["budget"] is not None else None,
        deadline_at_ms=row["deadline_at_ms"],
        traceparent=request["traceparent"],
        started_at_ms=row["started_at_ms"],
        # Runs from before there were children say nothing of a parent.
        parent=ParentStep.model_validate(request["parent"]) if request.get("parent") is not None else None,
        finished_at_ms=row["finished_at_ms"],
        output=_loads(row["output"]),
        error=_load_failure(row["error"]),
        sequence=row["sequence"],
        redrives=row["redrives"],
    )


def plain_uuid(key: UUID) -> UUID:
    """The driver answers with a subclass of its own, which not every JSON writer takes."""
    return UUID(int=key.int)


def add_step(run: Run, row: Row) -> None:
    """Put a step into its run; what the run has spent is the sum over its steps."""
    phase = StepPhase(row["phase"])
    usage = orjson.loads(row["usage"]) if row["usage"] is not None else {}
    terms = orjson.loads(row["terms"]) if row["terms"] is not None else {}
    step = Step(
        path=row["path"],
        kind=row["kind"],
        phase=phase,
        attempt=row["attempt"],
        tries=row["tries"],
        repairs=row["repairs"],
        route=row["route"],
        request_id=request_id(run.key, row["path"], row["attempt"]) if row["attempt"] else None,
        due_at_ms=row["due_at_ms"],
        dispatched_at_ms=row["dispatched_at_ms"],
        give_up_at_ms=terms.get("give_up_at_ms"),
        output=_loads(row["output"]),
        error=_load_failure(row["error"]),
        model_calls=usage.get("model_calls", 0),
        input_tokens=usage.get("input_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
        cost=Decimal(usage.get("cost", 0)),
        route_reason=terms.get("route_reason"),
        reserved=_load_amounts(terms.get("reserved")),
        unanswered=_load_unanswered(terms.get("unanswered")),
        undo=Undo(**terms["undo"]) if "undo" in terms else None,
    )
    run.steps[step.path] = step
    run.sequence = max(run.sequence, row["sequence"])
    _add_usage(run.usage, step, usage.get("currency"))


def _add_usage(total: Usage, step: Step, currency: str | None) -> None:
    total.model_calls += step.model_calls
    total.input_tokens += step.input_tokens
    total.output_tokens += step.output_tokens
    total.cost += step.cost
    if currency is not None:
        total.currency = currency


def _request_of(run: Run) -> str:
    return orjson.dumps(
        {
            "input": run.input,
            "labels": run.labels,
            "priority": run.priority.value,
            "budget": None if run.budget is None else run.budget.model_dump(mode="json", exclude_none=True),
            "traceparent": run.traceparent,
            "parent": None if run.parent is None else run.parent.model_dump(mode="json"),
        }
    ).decode()


def _status(run: Run) -> str:
    """A run that undoes is running, and its row says what it will be: `undoing_failed` or `undoing_cancelled`."""
    return run.status if run.undoing is None else f"undoing_{run.undoing}"


def _run_output(run: Run) -> str | None:
    return orjson.dumps(run.output).decode() if run.status == "completed" else None


def _step_output(step: Step) -> str | None:
    return orjson.dumps(step.output).decode() if step.phase is StepPhase.COMPLETED else None


def _usage(run: Run, step: Step) -> str | None:
    if not step.model_calls:
        return None
    spent = {
        "model_calls": step.model_calls,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "cost": str(step.cost),
        "currency": run.usage.currency,
    }
    return orjson.dumps(spent).decode()


def _terms(step: Step) -> str | None:
    """What few steps have; null costs nothing."""
    if (  # spelled out: this is asked of every step that is written
        step.give_up_at_ms is None
        and step.reserved is None
        and not step.unanswered
        and step.route_reason is None
        and step.undo is None
    ):
        return None
    terms = {
        "route_reason": step.route_reason,
        "give_up_at_ms": step.give_up_at_ms,
        "reserved": None if step.reserved is None else _amounts(step.reserved),
        "unanswered": [(*_amounts(each.most), each.attempt, each.asked_at_ms) for each in step.unanswered] or None,
        "undo": None if step.undo is None else asdict(step.undo),
    }
    return orjson.dumps({name: value for name, value in terms.items() if value is not None}).decode()


def _amounts(amounts: Amounts) -> tuple[int, int, str]:
    return amounts.model_calls, amounts.tokens, str(amounts.cost)


def _load_amounts(amounts: Sequence[Any] | None) -> Amounts | None:
    return None if amounts is None else Amounts(amounts[0], amounts[1], Decimal(amounts[2]))


def _load_unanswered(kept: Sequence[Any] | None) -> tuple[Unanswered, ...]:
    """Attempts one by one; rows of before say only what all of them used at most."""
    if not kept:
        return ()
    if not isinstance(kept[0], list):
        return (Unanswered(0, Amounts(kept[0], kept[1], Decimal(kept[2])), 0),)
    return tuple(Unanswered(each[3], Amounts(each[0], each[1], Decimal(each[2])), each[4]) for each in kept)


def _failure(failure: Failure | None) -> str | None:
    return None if failure is None else failure.to_json().decode()


def _load_failure(text: str | None) -> Failure | None:
    return None if text is None else Failure.model_validate_json(text)


def _loads(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)

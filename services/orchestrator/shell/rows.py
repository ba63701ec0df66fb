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


def batch_parts(batch: Batch) -> list[tuple[str, Sequence[Any]]]:
    """The parts of `commit_batch` that the batch needs, and the rows of each, in the columns of its type."""
    parts: tuple[tuple[str, Sequence[Any]], ...] = (
        ("started", [_started_row(run) for run in batch.started]),
        ("changed", [_changed_row(run) for run in batch.changed]),
        ("stepped", [_step_row(run, step) for run, step in batch.steps]),
        ("cleared", batch.alarms_cleared),
        ("moved", [(alarm.run_key, alarm.home, alarm.due_at_ms) for alarm in batch.alarms_set]),
        ("sent", batch.acknowledged),
        ("charged", [_charge_row(charge) for charge in batch.charges]),
    )
    advances = [(a.home, a.topic, a.expected_offset, a.next_offset, a.owner_epoch) for a in batch.advances]
    return [("fence", advances), ("decided", batch.outbox), *(part for part in parts if part[1])]


def _started_row(run: Run) -> tuple[Any, ...]:
    return (
        run.key,
        run.tenant,
        run.run_id,
        run.workflow,
        run.version,
        run.home,
        _status(run),
        _request_of(run),
        run.sequence,
        run.started_at_ms,
        run.finished_at_ms,
        _run_output(run),
        _failure(run.error),
        run.deadline_at_ms,
        run.redrives,
    )


def _changed_row(run: Run) -> tuple[Any, ...]:
    return (
        run.key,
        _status(run),
        run.sequence,
        run.finished_at_ms,
        _run_output(run),
        _failure(run.error),
        run.deadline_at_ms,
        run.redrives,
        run.version,
    )


def _step_row(run: Run, step: Step) -> tuple[Any, ...]:
    return (
        run.key,
        step.path,
        step.kind,
        step.phase,  # a str: its `value` is looked up by Python code
        step.attempt,
        step.tries,
        step.repairs,
        step.route,
        step.due_at_ms,
        step.dispatched_at_ms,
        _step_output(step),
        _failure(step.error),
        _usage(run, step),
        run.sequence,
        _terms(step),
    )


def _charge_row(charge: Charge) -> tuple[Any, ...]:
    amounts = charge.amounts
    return charge.tenant, charge.day, charge.home, amounts.model_calls, amounts.tokens, amounts.cost


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
        "unanswered": [_unanswered(each) for each in step.unanswered] or None,
        "undo": None if step.undo is None else asdict(step.undo),
    }
    return orjson.dumps({name: value for name, value in terms.items() if value is not None}).decode()


def _amounts(amounts: Amounts) -> tuple[int, int, str]:
    return amounts.model_calls, amounts.tokens, str(amounts.cost)


def _unanswered(each: Unanswered) -> tuple[int | str | bool, ...]:
    kept = (*_amounts(each.most), each.attempt, each.asked_at_ms)
    return (*kept, True) if each.burst else kept


def _load_amounts(amounts: Sequence[Any] | None) -> Amounts | None:
    return None if amounts is None else Amounts(amounts[0], amounts[1], Decimal(amounts[2]))


def _load_unanswered(kept: Sequence[Any] | None) -> tuple[Unanswered, ...]:
    """Attempts one by one; rows of before say only what all of them used at most."""
    if not kept:
        return ()
    if not isinstance(kept[0], list):
        return (Unanswered(0, Amounts(kept[0], kept[1], Decimal(kept[2])), 0),)
    return tuple(Unanswered(each[3], Amounts(each[0], each[1], Decimal(each[2])), *each[4:6]) for each in kept)


def _failure(failure: Failure | None) -> str | None:
    return None if failure is None else failure.to_json().decode()


def _load_failure(text: str | None) -> Failure | None:
    return None if text is None else Failure.model_validate_json(text)


def _loads(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)

"""What the shell writes without a model is what the model reads."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest

from penstock.contracts.ids import run_key
from penstock.contracts.messages import Failure, Lane, Money, RunProgressed, RunStart, RunUsage, StepChange, StepPhase
from services.orchestrator.core.state import Run, RunStatus, Usage
from services.orchestrator.shell.records import Progress, Voice, progress_record

AT = datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)
FAILURE = Failure(code="broken", message="it broke", step="main/one")
CHANGES = [
    StepChange(
        step="main/one", kind="task", phase=StepPhase.FAILED, attempt=2, request_id=UUID(int=7), at=AT, error=FAILURE
    ),
    StepChange(step="main/two", kind="route", phase=StepPhase.COMPLETED, attempt=0, at=AT, preview={"a": None}),
]


def a_run(usage: Usage) -> Run:
    """A run that has told of something before."""
    return Run(
        key=run_key("acme", "order/1"),
        tenant="acme",
        run_id="order/1",
        workflow="audit",
        version="3",
        home=2,
        status="failed",
        input=None,
        labels={"team": "a"},
        priority=Lane.STANDARD,
        budget=None,
        deadline_at_ms=0,
        traceparent=None,
        started_at_ms=0,
        sequence=4,
        usage=usage,
    )


@pytest.mark.parametrize("start", [None, RunStart(priority=Lane.BATCH, started_at=AT, input_preview=[1])])
@pytest.mark.parametrize("error", [None, FAILURE])
@pytest.mark.parametrize("calls", [0, 3])
def test_a_progress_record_reads_back_as_the_model_would_have_written_it(
    start: RunStart | None, error: Failure | None, calls: int
) -> None:
    run = a_run(Usage(model_calls=calls, input_tokens=calls, cost=Decimal("0.10") * calls))
    status: RunStatus = "failed" if error is not None else "running"
    record = progress_record(
        Voice(run, b"2026-01-01T12:30:00.250Z"), run, Progress(status, start, CHANGES, error, AT), "cause"
    )
    expected = RunProgressed(
        run_key=run.key,
        run_id=run.run_id,
        tenant=run.tenant,
        workflow=run.workflow,
        version=run.version,
        labels=run.labels,
        sequence=4,
        status=status,
        start=start,
        changes=CHANGES,
        usage=RunUsage(model_calls=calls, input_tokens=calls, cost=Money(amount=Decimal("0.10") * calls)),
        error=error,
        at=AT,
    )
    assert RunProgressed.model_validate_json(record.value) == expected
    assert b"null" not in record.value.replace(b'{"a":null}', b"")

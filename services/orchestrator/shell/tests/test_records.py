"""What the shell writes without a model is what the model reads."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from penstock.contracts.ids import run_key
from penstock.contracts.messages import (
    Failure,
    InferenceRequested,
    Lane,
    Money,
    RunFinished,
    RunProgressed,
    RunStart,
    RunUsage,
    StepChange,
    StepPhase,
    TaskRequested,
    ToolRequested,
)
from services.orchestrator.core.state import Change, Request, Run, RunStatus, Usage
from services.orchestrator.shell.records import Progress, Voice, finished_record, progress_record, request_record

AT = datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)
FAILURE = Failure(code="broken", message="it broke", step="main/one")
CHANGES = [
    StepChange(
        step="main/one", kind="task", phase=StepPhase.FAILED, attempt=2, request_id=UUID(int=7), at=AT, error=FAILURE
    ),
    StepChange(step="main/two", kind="route", phase=StepPhase.COMPLETED, attempt=0, at=AT, preview={"a": None}),
]
TOLD: list[Change] = [
    {
        "step": "main/one",
        "kind": "task",
        "phase": StepPhase.FAILED,
        "attempt": 2,
        "request_id": UUID(int=7),
        "at": AT,
        "error": FAILURE,
    },
    {"step": "main/two", "kind": "route", "phase": StepPhase.COMPLETED, "attempt": 0, "at": AT, "preview": {"a": None}},
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
        Voice(run, b"2026-01-01T12:30:00.250Z"), run, Progress(status, start, TOLD, error, AT), "cause"
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


WORK = {
    "request_id": UUID(int=7),
    "tenant": "acme",
    "run_key": UUID(int=8),
    "run_id": "order/1",
    "home": 2,
    "workflow": "audit",
    "version": "3",
    "step": "main/one",
    "attempt": 1,
    "deadline": AT,
}
CHAT = {
    "pool": "small",
    "model": "first",
    "max_tokens": 8,
    "messages": [{"role": "user", "content": "Grüße", "images": None}],
    "sampling": {"top_p": 0.5},
    "output_schema": {"default": None},
}


@pytest.mark.parametrize(
    "request_",
    [
        TaskRequested.model_validate({**WORK, "queue": "default", "task": "work", "input": {"a": None, "b": [1.5]}}),
        TaskRequested.model_validate({**WORK, "queue": "default", "task": "work", "labels": {"team": "a"}}),
        ToolRequested.model_validate({**WORK, "tool": "web.find", "grants": ["web.find"], "arguments": {"a": None}}),
        InferenceRequested.model_validate({**WORK, **CHAT, "priority": "batch"}),
    ],
)
def test_a_request_is_written_as_the_model_would_have_written_it(request_: Request) -> None:
    record = request_record(Voice(a_run(Usage()), b"2026-01-01T12:30:00.250Z"), request_, "cause")

    assert orjson.loads(record.value) == orjson.loads(request_.to_json())
    assert dict(record.headers)["ce_id"] == str(request_.request_id).encode()
    assert dict(record.headers)["traceparent"] == f"00-{a_run(Usage()).key.hex}-{UUID(int=7).hex[:16]}-01".encode()


@pytest.mark.parametrize("fields", [{"output": None}, {"output": {"a": None}}, {"error": FAILURE}])
def test_an_end_is_written_as_the_model_would_have_written_it(fields: dict[str, Any]) -> None:
    run = a_run(Usage(model_calls=3, input_tokens=3, cost=Decimal("0.30")))
    finished = RunFinished(
        run_id=run.run_id,
        workflow=run.workflow,
        version=run.version,
        tenant=run.tenant,
        status="failed" if "error" in fields else "completed",
        started_at=AT,
        finished_at=AT,
        usage=run.usage.to_message(),
        **fields,
    )
    before = finished.model_copy()

    record = finished_record(Voice(run, b"2026-01-01T12:30:00.250Z"), run, finished, "cause")

    assert orjson.loads(record.value) == orjson.loads(finished.to_json())
    assert finished == before

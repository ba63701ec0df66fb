"""Owns the tests of how far an audit is, and of its report's figures."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from examples.licence_audit.progress import Progress, document_of
from examples.licence_audit.report import spent_by_document
from penstock.contracts.messages import Failure, Money, RunProgressed, RunUsage, StepChange, StepPhase

AT = datetime(2026, 11, 1, tzinfo=UTC)


def change(step: str, phase: StepPhase, error: Failure | None = None) -> StepChange:
    return StepChange(step=step, kind="model", phase=phase, attempt=1, at=AT, error=error)


def record(*changes: StepChange) -> RunProgressed:
    usage = RunUsage(model_calls=1, input_tokens=100, output_tokens=20, cost=Money(amount=Decimal("0.01")))
    return RunProgressed(
        run_key=UUID(int=1),
        run_id="run",
        tenant="default",
        workflow="licence-audit",
        version="1",
        sequence=0,
        status="running",
        changes=list(changes),
        usage=usage,
        at=AT,
    )


def test_documents_end_with_their_last_step_or_their_first_failure() -> None:
    # given three documents
    progress = Progress(total=3)

    # when one is finished, one fails, and one is still being read
    reasons = progress.take(
        record(
            change("audit/documents[0]/document/summarise", StepPhase.COMPLETED),
            change("audit/documents[1]/document/read", StepPhase.FAILED, Failure(code="document_empty", message="no")),
            change("audit/documents[2]/document/extract", StepPhase.RETRYING),
            change("audit/table", StepPhase.WAITING),
        )
    )

    # then two have ended, the reason is told, and the figures are the run's
    assert progress.ended == 2
    assert reasons == ["document 2 failed at read: document_empty: no"]
    assert (progress.tokens, progress.cost, progress.retries) == (120, Decimal("0.01"), 1)


def test_steps_belong_to_documents() -> None:
    assert document_of("audit/documents[12]/document/second_look/look_again") == 12
    assert document_of("audit/table") is None


def test_a_trace_is_summed_up_by_document() -> None:
    # given a trace with two steps of one document and one of the run
    tokens = {"input": 10, "cached_input": 5, "output": 2, "reasoning": 0}
    attempt = {"tokens": tokens, "cost": "0.001", "simulated": True}
    steps = [
        ("audit/documents[0]/document/read", "2026-11-01T00:00:00Z", "2026-11-01T00:00:01Z", []),
        ("audit/documents[0]/document/extract", "2026-11-01T00:00:01Z", "2026-11-01T00:00:04Z", [attempt, attempt]),
        ("audit/table", "2026-11-01T00:00:04Z", "2026-11-01T00:00:05Z", []),
    ]
    names = ("step", "first_at", "last_at", "attempts")

    # when it is summed up
    spent = spent_by_document([dict(zip(names, step, strict=True)) for step in steps])

    # then the document has both attempts, from its first to its last moment
    assert spent.keys() == {0}
    assert (spent[0].tokens, spent[0].cost, spent[0].seconds, spent[0].simulated) == (34, Decimal("0.002"), 4.0, True)

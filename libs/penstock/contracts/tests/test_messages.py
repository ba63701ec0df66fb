"""Owns the promise that the two bodies other teams write and read stay exactly as they were fixed."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.contracts import messages as m

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
ATTRIBUTION: dict[str, Any] = {
    "request_id": "00000000-0000-5000-8000-000000000001",
    "tenant": "default",
    "run_key": "00000000-0000-5000-8000-000000000002",
    "run_id": "order-4711",
    "home": 0,
    "workflow": "greet",
    "version": "1",
    "step": "greet",
    "attempt": 1,
}

finite = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    finite | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


def finished(**changes: Any) -> m.RunFinished:
    fields: dict[str, Any] = {
        "run_id": "order-4711",
        "workflow": "greet",
        "version": "1",
        "tenant": "default",
        "status": "completed",
        "started_at": NOW,
        "finished_at": NOW,
    }
    return m.RunFinished(**(fields | changes))


def test_a_request_needs_a_workflow_and_nothing_else() -> None:
    request = m.RunRequested.model_validate_json(b'{"workflow": "greet"}')

    assert (request.input, request.labels, request.priority) == ({}, {}, m.Lane.STANDARD)
    assert (request.run_id, request.tenant, request.deadline, request.budget) == (None, None, None, None)


def test_null_means_not_given() -> None:
    nulls = {name: None for name in m.RunRequested.model_fields if name not in ("workflow", "input")}

    request = m.RunRequested.model_validate_json(json.dumps({"workflow": "greet"} | nulls))

    assert request == m.RunRequested(workflow="greet")


@pytest.mark.parametrize("run_id", ["order-4711", "!", "~" * 128, "order 4711", "a/b", "{}"])
def test_a_run_id_is_printable_ascii(run_id: str) -> None:
    assert m.RunRequested(workflow="greet", run_id=run_id).run_id == run_id


@pytest.mark.parametrize("run_id", ["", "~" * 129, "größe", "a\n", "a\x00", "\x7f", 4711])
def test_no_other_run_id_is_read(run_id: object) -> None:
    with pytest.raises(ValidationError, match="run_id"):
        m.RunRequested.model_validate({"workflow": "greet", "run_id": run_id})


@pytest.mark.parametrize("tenant", ["", "Acme", "acme/eu", "-acme", "a" * 64, "a\n"])
def test_no_other_tenant_is_read(tenant: str) -> None:
    with pytest.raises(ValidationError, match="tenant"):
        m.RunRequested(workflow="greet", tenant=tenant)


def test_a_deadline_has_a_zone() -> None:
    with pytest.raises(ValidationError, match="deadline"):
        m.RunRequested.model_validate({"workflow": "greet", "deadline": "2026-11-21T09:30:00"})


@pytest.mark.parametrize(
    ("amount", "written"),
    [("0", "0"), ("2.50", "2.50"), ("1E+3", "1000"), ("1E-9", "0.000000001"), ("0E-9", "0.000000000")],
)
def test_money_is_written_as_a_plain_decimal(amount: str, written: str) -> None:
    body = json.loads(m.Money(amount=Decimal(amount)).to_json())

    assert body == {"amount": written, "currency": "USD"}


@pytest.mark.parametrize("amount", ["-1", "NaN", "Infinity", "one", None])
def test_money_is_a_finite_amount_that_is_not_negative(amount: str | None) -> None:
    with pytest.raises(ValidationError, match="amount"):
        m.Money.model_validate({"amount": amount})


@given(values)
def test_an_output_comes_back_as_it_went_out(output: Any) -> None:
    body = json.loads(finished(output=output).to_json())

    assert body["output"] == output
    assert "error" not in body


def test_a_run_finished_has_exactly_the_fixed_fields() -> None:
    completed = json.loads(finished().to_json())
    failed = json.loads(finished(status="failed", error=m.Failure(code="timeout", message="late")).to_json())

    shared = {"run_id", "workflow", "version", "tenant", "labels", "status", "started_at", "finished_at", "usage"}
    assert set(completed) == shared | {"output"}
    assert set(failed) == shared | {"error"}
    assert failed["error"] == {"code": "timeout", "message": "late"}
    assert completed["started_at"] == "2026-11-21T09:30:00Z"
    assert completed["usage"] == {
        "model_calls": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost": {"amount": "0", "currency": "USD"},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "completed", "error": m.Failure(code="timeout", message="late")},
        {"status": "failed"},
        {"status": "cancelled"},
        {"status": "paused"},
    ],
)
def test_a_run_finished_has_an_output_or_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        finished(**changes)


def test_unknown_fields_are_let_pass() -> None:
    request = m.RunRequested.model_validate({"workflow": "greet", "from_the_future": 1})

    assert b"future" not in request.to_json()


def test_an_outcome_has_an_output_or_an_error() -> None:
    fields = {"executor": "worker-1", "started_at": NOW, "finished_at": NOW, "task": "greet"}
    give_up = m.WorkError(code="task_raised", message="no", next=m.NextMove.GIVE_UP)

    with pytest.raises(ValidationError, match="has no error"):
        m.TaskCompleted(**ATTRIBUTION, **fields, status="succeeded", error=give_up)
    with pytest.raises(ValidationError, match="has one"):
        m.TaskCompleted(**ATTRIBUTION, **fields, status="failed")


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        m.RunRequested(workflow="greet").workflow = "other"  # type: ignore[misc]  # that is what is tried


def test_the_statuses_of_a_run_are_three() -> None:
    assert get_args(m.RunFinished.model_fields["status"].annotation) == ("completed", "failed", "cancelled")

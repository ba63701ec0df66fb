"""Owns the examples of what a run's records mean to a reader."""

from datetime import UTC, datetime
from decimal import Decimal

from penstock.contracts import ids
from penstock.contracts.messages import Budget, CapNeared, RunProgressed, RunStart, StepChange, StepPhase
from services.gateway.api import views

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def told(sequence: int, **fields: object) -> dict[str, object]:
    """A progress record, as it is stored."""
    record = {
        "run_key": ids.run_key("default", "order-1"),
        "run_id": "order-1",
        "tenant": "default",
        "workflow": "greet",
        "version": "1",
        "sequence": sequence,
        "status": "running",
        "at": NOON,
    }
    return RunProgressed.model_validate(record | fields).model_dump(mode="json", exclude_none=True)


def test_a_run_shows_its_budget_what_is_nearly_used_up_and_why_a_route_was_taken() -> None:
    change = {"step": "say", "kind": "model", "phase": StepPhase.WAITING, "attempt": 1, "at": NOON}
    routed = StepChange.model_validate(change | {"route": "burst/large", "route_reason": "in_flight_max"})
    neared = CapNeared(cap="tokens", used=Decimal(81), limit=Decimal(100), at=NOON)
    progress = [
        told(1, start=RunStart(started_at=NOON, budget=Budget(tokens=100)), changes=[routed]),
        told(2, caps_neared=[neared]),
        told(3, changes=[StepChange.model_validate(change | {"phase": StepPhase.CANCELLED})]),
    ]
    row = {"run_id": "order-1", "tenant": "default", "workflow": "greet", "version": "1", "status": "running"}
    more = {"labels": {}, "started_at": NOON, "finished_at": None, "ending": None, "sequence": 3}

    run = views.detail(row | more, progress, [])

    assert run.budget == Budget(tokens=100)
    assert run.caps_neared == [neared]
    assert [(step.route, step.route_reason) for step in run.steps] == [("burst/large", "in_flight_max")]

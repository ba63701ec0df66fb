"""Owns the examples of what a reader sees of a run's relatives."""

from typing import Any

import pytest
from pydantic import ValidationError

from penstock.contracts import ids
from penstock.contracts.children import ParentStep
from penstock.contracts.messages import Failure, RunProgressed, RunStart, StepChange, StepPhase
from services.gateway.api.bodies import RunBody
from services.gateway.api.views import detail
from services.gateway.tests.noon import NOON

KEY = ids.run_key("default", "order-1")
REQUEST = ids.request_id(KEY, "main/review", 1)
PARENT = ParentStep(run_id="order-0", home=1, step="main/order", request_id=REQUEST, depth=1)
ROW = {
    "run_id": "order-1",
    "tenant": "default",
    "workflow": "review",
    "version": "1",
    "status": "running",
    "labels": {},
    "started_at": NOON,
    "finished_at": None,
    "sequence": 1,
    "ending": None,
}


def progress(**fields: Any) -> dict[str, Any]:
    """A progress record as it is kept."""
    start = RunStart(started_at=NOON, **fields)
    change = StepChange(step="main/review", kind="run", phase=StepPhase.WAITING, attempt=1, request_id=REQUEST, at=NOON)
    message = RunProgressed(
        run_key=KEY,
        run_id="order-1",
        tenant="default",
        workflow="review",
        version="1",
        sequence=1,
        status="running",
        start=start,
        changes=[change],
        at=NOON,
    )
    return message.model_dump(mode="json", exclude_none=True)


def test_a_run_leads_to_its_parent_and_to_its_children() -> None:
    seen = detail(ROW, [progress(parent=PARENT)], [])
    assert (seen.parent_run_id, seen.parent_step) == ("order-0", "main/order")
    assert seen.steps[0].child_run_id == ids.child_run_id(REQUEST)


def test_a_run_from_outside_has_no_parent() -> None:
    assert detail(ROW, [progress()], []).parent_run_id is None


def test_nobody_claims_a_parent_over_http() -> None:
    with pytest.raises(ValidationError, match="parent"):
        RunBody.model_validate({"workflow": "review", "parent": PARENT.model_dump()})


def test_a_run_that_undoes_says_so_and_why() -> None:
    # given a run that is still running, though it failed
    failure = Failure(code="task_failed", message="no money", step="main/pay")
    undoing = progress() | {"sequence": 2, "undoing": True, "error": failure.model_dump()}
    seen = detail(ROW | {"sequence": 2}, [progress(), undoing], [])
    assert (seen.status, seen.undoing, seen.error) == ("running", True, failure)
    # when it is over, then it undoes nothing any more
    over = progress() | {"sequence": 3, "status": "failed", "error": failure.model_dump()}
    assert not detail(ROW | {"sequence": 3, "status": "failed"}, [undoing, over], []).undoing

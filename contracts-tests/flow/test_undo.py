"""Owns the promises about undoing on real topics: in which order, with what, and that the end comes last."""

import pytest

from penstock.contracts.messages import RunProgressed
from penstock.contracts.topics import RUN_PROGRESSED
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]


async def test_a_failed_run_takes_back_what_it_did_before_it_ends(flow: Traffic) -> None:
    # given a workflow that books twice, and then cannot pay
    def booking(name: str) -> dict[str, object]:
        undo = {"task": "counted.work", "input": {"ledger": "{{ input.ledger }}", "value": "{{ output.value }}"}}
        return {**counted_step(name, input={"value": name, "milliseconds": 0}), "undo": undo}

    pay = counted_step("pay", input={"fail_before": 99, "milliseconds": 0}, retry={"attempts": 1})
    chain = {"id": "main", "chain": [booking("flight"), booking("hotel"), pay]}
    await flow.upstream.publish(Definition.model_validate({"name": "trip", "version": "1", "do": chain}))
    # when it runs
    await flow.upstream.request("trip", {"ledger": str(flow.ledger)}, run_id="trip-1")
    end = (await flow.downstream.finished(["trip-1"]))["trip-1"]
    # then it failed for its own reason, with everything taken back, the last first
    assert (end.status, end.error and end.error.step) == ("failed", "main/pay")
    assert end.error is not None
    assert "Not undone" not in end.error.message
    begun = [name for name in flow.executions().begun if name.startswith("trip-1 ")]
    assert begun == [f"trip-1 main/{step}" for step in ("flight", "hotel", "pay", "hotel/undo", "flight/undo")]
    # and whoever watched saw it undo
    told = await flow.downstream.hear(RUN_PROGRESSED.name, 6, b'"run_id":"trip-1"')
    seen = [RunProgressed.model_validate_json(record.value or b"") for record in told]
    assert {progress.status for progress in seen if progress.undoing} == {"running"}
    assert seen[-1].status == "failed"

"""Owns the promise that no kill stops a run from taking back what it did: each undo once, in order, then the end."""

from collections import Counter
from typing import Any

import pytest

from penstock.contracts import ids
from penstock.contracts.topics import Service
from penstock.testkit.downstream import headers_of
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 60
FINISH_SECONDS = 180.0
KILLED = [Service.ORCHESTRATOR, Service.WORKER]
BEGUN = ("first", "second", "pay", "child/undo", "second/undo", "first/undo")


def trips() -> list[Definition]:
    """A parent that books twice and has a child book as well, and then cannot pay: it undoes all three."""

    def undone(step: dict[str, Any]) -> dict[str, Any]:
        return {**step, "undo": counted_step("undo", retry={"attempts": 5, "initial_ms": 200})}

    child = {"id": "child", "run": "trip-child", "input": {"ledger": "{{ input.ledger }}"}}
    pay = counted_step("pay", input={"fail_before": 99}, retry={"attempts": 1})
    chain = [undone(counted_step("first")), undone(counted_step("second")), undone(child), pay]
    parent = {"name": "trip", "version": "1", "do": {"id": "main", "chain": chain}}
    inside = {"name": "trip-child", "version": "1", "do": counted_step("inside")}
    return [Definition.model_validate(each) for each in (inside, parent)]


@pytest.mark.parametrize("service", KILLED)
async def test_undoing_goes_on_after_a_kill(running: System, load: Traffic, service: Service) -> None:
    # given runs that fail when most of their work is done, some of them in the middle of undoing
    for definition in trips():
        await load.upstream.publish(definition)
    run_ids = await load.start(f"undo-{service}", RUNS, "trip")
    await load.answered(run_ids, RUNS * 4)

    # when a service is killed, and is started again
    part = await running.crash(service)

    # then every run fails for its own reason, once, and nothing is left undone
    finished = await load.downstream.finished(run_ids, FINISH_SECONDS)
    await load.downstream.caught_up()
    ends = [(end.status, end.error.step if end.error else None) for end in finished.values()]
    assert Counter(ends) == {("failed", "main/pay"): RUNS}
    assert not [end.error for end in finished.values() if end.error and "Not undone" in end.error.message]
    assert all(len({headers_of(end)["ce_id"] for end in load.downstream.ends(run_id)}) == 1 for run_id in run_ids)

    # and each step and each undo was asked for under one request id, the undos one after the other, the last first
    begun = load.executions().begun
    order = list(begun)
    for run_id in run_ids:
        names = [f"{run_id} main/{step}" for step in BEGUN]
        assert [len(set(begun.get(name, ()))) for name in names] == [1] * len(BEGUN), run_id
        places = [order.index(name) for name in names]
        assert places == sorted(places), run_id
    children = [ids.child_run_id(ids.request_id(ids.run_key("default", each), "main/child", 1)) for each in run_ids]
    await settled(running.postgres_url(Service.ORCHESTRATOR), [*run_ids, *children])
    await part.until_ready(FINISH_SECONDS)

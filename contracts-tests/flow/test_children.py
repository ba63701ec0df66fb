"""Owns the promises about child runs on real topics: their output, their end, their cancel, their failure."""

import pytest

from penstock.contracts import ids
from penstock.contracts.topics import RUN_FINISHED, RUN_PROGRESSED, RUN_REQUESTED
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]


async def published(flow: Traffic, name: str, do: dict[str, object]) -> None:
    """A workflow that everybody knows."""
    await flow.upstream.publish(Definition.model_validate({"name": name, "version": "1", "do": do}))


async def test_a_map_of_child_runs_is_one_result(flow: Traffic) -> None:
    # given a workflow that runs another one for each number, spread over all homes
    child = counted_step("double", input={"value": "{{ input.number * 2 }}", "milliseconds": 0})
    await published(flow, "double", {"id": "c", "chain": [child], "output": "{{ double.value }}"})
    ask = {"id": "ask", "run": "double", "input": {"ledger": "{{ input.ledger }}", "number": "{{ item }}"}}
    await published(flow, "family", {"id": "each", "parallel": {"map": "input.numbers", "do": ask}})
    # when it runs
    numbers = list(range(8))
    await flow.upstream.request("family", {"ledger": str(flow.ledger), "numbers": numbers}, run_id="family-1")
    # then it has all their outputs, in order
    end = (await flow.downstream.finished(["family-1"]))["family-1"]
    assert (end.status, end.output) == ("completed", [2 * number for number in numbers])
    # and each child is a run of its own that ended once, somewhere
    key = ids.run_key("default", "family-1")
    children = [ids.child_run_id(ids.request_id(key, f"each[{number}]/ask", 1)) for number in numbers]
    ends = await flow.downstream.finished(children)
    assert [ends[child].output for child in children] == end.output
    assert all(len(flow.downstream.ends(child)) == 1 for child in children)
    asked = await flow.downstream.hear(RUN_REQUESTED.name, len(numbers), b'"parent":{"run_id":"family-1"')
    assert len({record.partition for record in asked}) > 1


async def test_a_cancelled_parent_takes_its_child_with_it(flow: Traffic) -> None:
    # given a child whose only step waits
    gate = flow.ledger.with_name("children.gate")
    waiting = counted_step("wait", input={"gate": str(gate), "milliseconds": 0})
    await published(flow, "patient", waiting)
    await published(flow, "asker", {"id": "ask", "run": "patient", "input": {"ledger": "{{ input.ledger }}"}})
    await flow.upstream.request("asker", {"ledger": str(flow.ledger)}, run_id="asker-1")
    await flow.downstream.hear(RUN_PROGRESSED.name, 1, b'"parent":{"run_id":"asker-1"')
    # when its parent is cancelled
    await flow.upstream.signal("asker-1", "cancel")
    # then both end as cancelled
    assert (await flow.downstream.finished(["asker-1"]))["asker-1"].status == "cancelled"
    (child,) = await flow.downstream.hear(RUN_FINISHED.name, 1, b"its parent does not await it any more")
    assert b'"status":"cancelled"' in (child.value or b"")
    gate.touch()


async def test_a_child_of_an_unknown_workflow_fails_its_step(flow: Traffic) -> None:
    await published(flow, "orphaned", {"id": "ask", "run": "nobody-published-this"})
    await flow.upstream.request("orphaned", {}, run_id="orphaned-1")
    end = (await flow.downstream.finished(["orphaned-1"]))["orphaned-1"]
    assert end.error is not None
    assert (end.error.code, end.error.step) == ("unknown_workflow", "ask")

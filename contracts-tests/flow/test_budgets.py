"""Owns the promises about money: what a run or a tenant may not spend is not asked for."""

from typing import Any

import pytest

from penstock.contracts.messages import RunFinished
from penstock.testkit.traffic import Traffic
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]


async def publish(flow: Traffic, name: str) -> None:
    """A workflow of two model calls, one after the other."""
    tiers = {"small": [{"pool": "small", "model": "smollm2-135m"}]}
    calls = [
        {"id": each, "model": "small", "prompt": f"{each} {{{{ run.id }}}}", "max_tokens": 50}
        for each in ("one", "two")
    ]
    do = {"id": "main", "chain": calls}
    await flow.upstream.publish(Definition.model_validate({"name": name, "version": "1", "tiers": tiers, "do": do}))


async def the_end(flow: Traffic, run_id: str, workflow: str, **fields: Any) -> RunFinished:
    """Ask for a run and wait for its end."""
    await flow.upstream.request(workflow, {}, run_id=run_id, **fields)
    return (await flow.downstream.finished([run_id]))[run_id]


async def test_a_call_that_the_runs_budget_has_no_room_for_is_not_made(flow: Traffic) -> None:
    # given a run that may make one call, when it runs, then the second is not asked for, and its end says why
    await publish(flow, "frugal")
    end = await the_end(flow, "frugal-1", "frugal", budget={"model_calls": 1})
    assert end.error is not None
    assert (end.status, end.error.code, end.error.step) == ("failed", "budget_exceeded", "main/two")
    assert "the cap of model calls is 1: 1 spent, 0 reserved" in end.error.message
    assert end.usage.model_calls == 1
    assert flow.engine.calls_about("two frugal-1") == []


async def test_a_tenant_that_has_used_its_day_makes_no_more_calls(flow: Traffic) -> None:
    # given a tenant of three calls a day, when it asks for two runs of two calls, then the last call is not made
    await publish(flow, "daily")
    first = await the_end(flow, "daily-1", "daily", tenant="thrifty")
    second = await the_end(flow, "daily-2", "daily", tenant="thrifty")
    assert (first.status, second.status) == ("completed", "failed")
    assert second.error is not None
    assert (second.error.code, second.error.step) == ("budget_exceeded", "main/two")
    assert "the cap of model calls of the tenant thrifty is 3 a day: 0 left" in second.error.message
    # and others are none the poorer
    assert (await the_end(flow, "daily-3", "daily")).status == "completed"

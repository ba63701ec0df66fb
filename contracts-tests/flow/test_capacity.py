"""Owns the promise about room: what engines report of themselves is what the next calls' routes go by."""

from typing import Any

import pytest

from penstock.contracts.messages import CapacityReported
from penstock.contracts.topics import CAPACITY_REPORTED
from penstock.runtime.clock import now_ms
from penstock.testkit.builders import a_report
from penstock.testkit.traffic import Traffic
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]

FAR, NEAR = {"pool": "small", "model": "faraway"}, {"pool": "small", "model": "second"}
RUNS_MAX = 200
NEVER_OPENS = {"calls_min": 10_000, "window_calls": 10_000}
"""So that it is not the breaker that leaves the far engines alone."""


def a_workflow(name: str, **tier: Any) -> Definition:
    """One model call, on engines that nobody has but in a report, or on those that are there."""
    step = {"id": "say", "model": "tier", "prompt": "Say something about {{ run.id }}."}
    body: dict[str, Any] = {"name": name, "version": "1", "do": step}
    body["tiers"] = {"tier": {"routes": [FAR, NEAR], "breaker": NEVER_OPENS, **tier}}
    return Definition.model_validate(body)


async def report(flow: Traffic, **fields: Any) -> None:
    """An engine of the far model says what room it has."""
    told: CapacityReported = a_report("ghost", at_ms=now_ms(), models=["faraway"], **fields)
    await flow.upstream.say(CAPACITY_REPORTED.name, told.to_json(), key=b"ghost")


async def run_until_it_goes_there_at_once(flow: Traffic, workflow: str, **fields: Any) -> None:
    """Runs, until one does not try the far engines first: the report is read apart from the requests."""
    for number in range(RUNS_MAX):
        run_id = f"{workflow}-{number}"
        await flow.upstream.request(workflow, run_id=run_id, **fields)
        end = (await flow.downstream.finished([run_id]))[run_id]
        assert end.status == "completed"
        if end.usage.model_calls == 1:
            return
    raise AssertionError(f"{RUNS_MAX} runs, and each tried the far engines")


async def test_engines_that_report_to_be_away_are_not_tried(flow: Traffic) -> None:
    # given a workflow whose first route nobody serves: its calls are refused there, and go on
    await flow.upstream.publish(a_workflow("away"))
    await flow.upstream.request("away", run_id="away-first")
    assert (await flow.downstream.finished(["away-first"]))["away-first"].usage.model_calls == 2

    # when its engines say that they are away, then calls go on at once
    await report(flow, state="away")
    await run_until_it_goes_there_at_once(flow, "away")


async def test_calls_burst_while_engines_report_to_be_behind(flow: Traffic) -> None:
    # given engines that are a hundred seconds behind
    await flow.upstream.publish(a_workflow("behind", burst={"wait_seconds": 1}))
    await report(flow, requests_in_flight=100, tokens_in_flight=10_000, requests_best=1)

    # then interactive calls go on at once
    await run_until_it_goes_there_at_once(flow, "behind", priority="interactive")

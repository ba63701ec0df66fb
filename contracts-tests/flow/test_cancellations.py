"""Owns the promise that nobody works on what nobody awaits: a cancel reaches the engine, and its usage is counted."""

from typing import Any

import pytest

from penstock.contracts.messages import UsageRecorded
from penstock.contracts.topics import USAGE_RECORDED, WORK_CANCELLED
from penstock.testkit.downstream import headers_of
from penstock.testkit.traffic import Traffic
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]


def a_race(name: str) -> Definition:
    """Two model calls of which one is enough, with all the time in the world."""
    tiers = {"small": [{"pool": "small", "model": "smollm2-135m"}]}
    calls: list[dict[str, Any]] = [
        {"id": each, "model": "small", "prompt": f"{each} {{{{ run.id }}}}", "max_tokens": 50, "timeout_seconds": 3_000}
        for each in ("quick", "slow")
    ]
    do = {"id": "race", "parallel": {"sections": calls, "join": {"quorum": 1}}}
    return Definition.model_validate(
        {"name": name, "version": "1", "tiers": tiers, "do": do, "deadline_seconds": 3_600}
    )


async def test_a_branch_that_is_not_needed_gives_its_place_in_the_engine_back_at_once(flow: Traffic) -> None:
    # given a run with two calls in the engine, of which one is enough
    await flow.upstream.publish(a_race("race"))
    flow.engine.hold("quick race-1")
    flow.engine.hold("slow race-1")
    await flow.upstream.request("race", {}, run_id="race-1")
    await flow.engine.arrived("quick race-1")
    await flow.engine.arrived("slow race-1")

    # when one is answered
    flow.engine.release("quick race-1")

    # then the run is over, and the other call leaves the engine, an hour before its deadline
    end = (await flow.downstream.finished(["race-1"]))["race-1"]
    assert (end.status, end.output) == ("completed", {"quick": "fine", "slow": None})
    await flow.engine.left("slow race-1")

    # and it is answered and on the bill as what it is, once
    def usages() -> list[UsageRecorded]:
        recorded = [
            UsageRecorded.model_validate_json(each.value) for each in flow.downstream.heard(USAGE_RECORDED.name)
        ]
        return [each for each in recorded if each.run_id == "race-1"]

    await flow.downstream.until(lambda: len(usages()) == 2, lambda: f"{usages()}")
    assert {each.step: each.status for each in usages()} == {"race/quick": "succeeded", "race/slow": "failed"}
    cancels = [
        each for each in flow.downstream.heard(WORK_CANCELLED.name) if headers_of(each)["ce_correlationid"] == "race-1"
    ]
    (slow,) = [each for each in usages() if each.step == "race/slow"]
    assert [headers_of(each)["ce_id"] for each in cancels] == [f"{slow.request_id}/cancelled"]

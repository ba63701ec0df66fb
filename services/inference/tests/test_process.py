"""Tests of inference as a real process on real Kafka, with the engine that needs no model."""

from datetime import UTC, datetime

import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import (
    CapacityReported,
    ChatMessage,
    InferenceCompleted,
    InferenceRequested,
    Lane,
    UsageRecorded,
)
from penstock.contracts.topics import (
    CAPACITY_REPORTED,
    INFERENCE_COMPLETED,
    INFERENCE_REQUESTED,
    USAGE_RECORDED,
    dead_letter_topic,
)
from penstock.testkit.process import Topics, deployment_environ, service_process, topics
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)


def a_request(run_id: str, pool: str, lane: Lane) -> InferenceRequested:
    key = run_key("default", run_id)
    return InferenceRequested(
        request_id=request_id(key, "s", 1),
        tenant="default",
        run_key=key,
        run_id=run_id,
        home=3,
        workflow="w",
        version="1",
        step="s",
        attempt=1,
        deadline=DEADLINE,
        priority=lane,
        pool=pool,
        model="m",
        messages=[ChatMessage(role="user", content="How high is the water?")],
        max_tokens=32,
    )


async def test_every_lane_is_answered_and_its_poison_set_aside(stack: SharedStack) -> None:
    # given inference for a pool of its own
    deployment = await stack.new_deployment()
    pool = deployment.pools[0]
    lanes = {lane: INFERENCE_REQUESTED.named(pool=pool, lane=lane) for lane in Lane}
    environ = {
        **deployment_environ(deployment),
        "PENSTOCK_INFERENCE_POOL": pool,
        "PENSTOCK_INFERENCE_ENGINE": "simulated",
        "PENSTOCK_INFERENCE_MODEL": "m",
        "PENSTOCK_INFERENCE_SIMULATED_SPEED": "100",
    }
    heard = [
        INFERENCE_COMPLETED.name,
        USAGE_RECORDED.name,
        CAPACITY_REPORTED.name,
        *map(dead_letter_topic, lanes.values()),
    ]
    async with (
        topics(stack.bootstrap_servers, heard) as log,
        service_process("inference", stack.bootstrap_servers, environ) as inference,
    ):
        await inference.logged("partitions.assigned")
        parts = (await inference.ready())["parts"]
        assert parts["engine"] == {"ready": True, "detail": "simulated: no model answers"}

        # when poison comes on every lane, and a request behind it on the same partition
        run_id = stack.new_name("run")
        for lane, topic in lanes.items():
            await log.say(topic, lane.encode() + b"\xff", [("ce_id", b"\xfe")], key=b"\xfd")
            await log.say(topic, a_request(f"{run_id}-{lane}", pool, lane).to_json())

        # then every request is answered at the run's home, marked as simulated wherever it is shown
        answers = await log.hear(INFERENCE_COMPLETED.name, 3, run_id.encode())
        assert {each.partition for each in answers} == {3}
        for each in answers:
            completed = InferenceCompleted.model_validate_json(each.value)
            assert (completed.status, completed.simulated, completed.engine) == ("succeeded", True, "simulated")
            assert completed.output.startswith("[simulated] ")
        usages = [
            UsageRecorded.model_validate_json(each.value)
            for each in await log.hear(USAGE_RECORDED.name, 3, run_id.encode())
        ]
        assert {usage.lane for usage in usages} == set(Lane)
        assert all(usage.simulated and usage.tokens.output > 0 and usage.cost.amount > 0 for usage in usages)

        # and the poison lies in the dead letter topics, byte for byte
        for lane, topic in lanes.items():
            (letter,) = await log.hear(dead_letter_topic(topic), 1)
            assert (letter.key, letter.value) == (b"\xfd", lane.encode() + b"\xff")
            assert letter.headers[0] == ("ce_id", b"\xfe")
        assert await inference.stop() == 0

        # and from its start to its end the process said what room its engine had
        await _told_of_its_room(log, pool)


async def _told_of_its_room(log: Topics, pool: str) -> None:
    told: list[CapacityReported] = []
    while not told or told[-1].health.state != "stopped":
        heard = await log.hear(CAPACITY_REPORTED.name, len(told) + 1, b'"pool":"' + pool.encode())
        told.append(CapacityReported.model_validate_json(heard[-1].value))
    assert [report.sequence for report in told] == list(range(1, len(told) + 1))
    assert "up" in {report.health.state for report in told}
    assert {report.engine_session for report in told} == {told[0].engine_session}
    assert all(report.simulated and report.models == ["m"] for report in told)


async def test_an_interactive_request_does_not_wait_for_a_backlog(stack: SharedStack) -> None:
    # given an engine of two places with a hundred batch requests before it, of which each takes its time
    deployment = await stack.new_deployment()
    pool = deployment.pools[0]
    environ = {
        **deployment_environ(deployment),
        "PENSTOCK_INFERENCE_POOL": pool,
        "PENSTOCK_INFERENCE_ENGINE": "simulated",
        "PENSTOCK_INFERENCE_MODEL": "m",
        "PENSTOCK_INFERENCE_CONCURRENCY": "2",
        "PENSTOCK_INFERENCE_SIMULATED_SPEED": "2",
    }
    async with (
        service_process("inference", stack.bootstrap_servers, environ) as inference,
        topics(stack.bootstrap_servers, [INFERENCE_COMPLETED.name]) as log,
    ):
        await inference.logged("partitions.assigned")
        run_id = stack.new_name("run")
        for number in range(100):
            request = a_request(f"{run_id}-{number}", pool, Lane.BATCH)
            await log.say(INFERENCE_REQUESTED.named(pool=pool, lane=Lane.BATCH), request.to_json())

        # when an interactive one comes behind them
        urgent = a_request(f"{run_id}-urgent", pool, Lane.INTERACTIVE)
        await log.say(INFERENCE_REQUESTED.named(pool=pool, lane=Lane.INTERACTIVE), urgent.to_json())

        # then it is answered while most of them still wait
        answers = await log.hear(INFERENCE_COMPLETED.name, 101, run_id.encode())
        order = [InferenceCompleted.model_validate_json(each.value).run_id for each in answers]
        assert order.index(urgent.run_id) < 90
        assert await inference.stop() == 0

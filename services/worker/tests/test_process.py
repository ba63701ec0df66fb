"""Tests of the worker as a real process on real Kafka."""

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.contracts.envelope import Envelope, to_headers
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import TaskCompleted, TaskRequested, UsageRecorded
from penstock.contracts.topics import TASK_COMPLETED, TASK_REQUESTED, USAGE_RECORDED, dead_letter_topic
from penstock.testkit.process import deployment_environ, service_process, topics
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)


def a_request(run_id: str, queue: str, task: str, given_input: Any) -> TaskRequested:
    key = run_key("default", run_id)
    return TaskRequested(
        request_id=request_id(key, "s", 1),
        tenant="default",
        run_key=key,
        run_id=run_id,
        home=2,
        workflow="w",
        version="1",
        step="s",
        attempt=1,
        deadline=DEADLINE,
        queue=queue,
        task=task,
        input=given_input,
    )


async def test_a_worker_answers_sets_poison_aside_and_ends_when_told(stack: SharedStack) -> None:
    # given a worker of its own queue
    deployment = await stack.new_deployment()
    queue = deployment.queues[0]
    topic = TASK_REQUESTED.named(queue=queue)
    environ = {
        **deployment_environ(deployment),
        "PENSTOCK_WORKER_QUEUES": queue,
        "PENSTOCK_WORKER_TASK_MODULES": "services.worker.tests.tasks_for_tests",
    }
    heard = [TASK_COMPLETED.name, USAGE_RECORDED.name, dead_letter_topic(topic)]
    async with (
        service_process("worker", stack.bootstrap_servers, environ) as worker,
        topics(stack.bootstrap_servers, heard) as log,
    ):
        await worker.logged("partitions.assigned")
        assert (await worker.ready())["ready"] is True

        # when a request comes, then poison, then another request on the same partition
        run_id = stack.new_name("run")
        poison, odd_headers = b'{"task": \xff', [("x-odd", b"\xff\x00"), ("ce_id", b"p-1")]
        first = to_headers(Envelope("cause-1", "t", "s", "2026-11-21T00:00:00Z", traceparent="00-1-2-01"))
        await log.say(topic, a_request(run_id, queue, "tests.double", {"number": 4}).to_json(), first)
        await log.say(topic, poison, odd_headers, key=b"\xfe")
        await log.say(topic, a_request(run_id + "b", queue, "tests.double_plain", {"number": 5}).to_json())

        # then both requests are answered at the run's home, with their usage
        answers = await log.hear(TASK_COMPLETED.name, 2, run_id.encode())
        assert sorted(TaskCompleted.model_validate_json(each.value).output for each in answers) == [8, 10]
        assert {each.partition for each in answers} == {2}
        usages = await log.hear(USAGE_RECORDED.name, 2, run_id.encode())
        assert {UsageRecorded.model_validate_json(each.value).kind for each in usages} == {"task"}

        # and the poison lies in the dead letter topic, byte for byte
        (letter,) = await log.hear(dead_letter_topic(topic), 1)
        assert (letter.key, letter.value) == (b"\xfe", poison)
        assert list(letter.headers[:2]) == odd_headers
        assert any(name.startswith("__dlq.errors.") for name, _ in letter.headers)

        # and the worker ends when told
        assert await worker.stop() == 0

"""Owns the promise that no kill of any service loses work, repeats finished work, or ends a run twice."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from penstock.contracts.topics import INFERENCE_COMPLETED, TASK_COMPLETED, Service
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic, storm, traffic
from services.local.system import System, Systems

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 200
FINISH_SECONDS = 180.0


@pytest.fixture(scope="module")
async def running(module_system: Systems) -> System:
    """One of each service; few tasks at a time, so that a kill lands in the middle."""
    return await module_system(
        tool_executor=0,
        gateway=0,
        tasks=["penstock.testkit.counted"],
        service_environment={"worker": {"PENSTOCK_WORKER_IN_FLIGHT": "16"}},
    )


@pytest.fixture(scope="module")
async def load(running: System) -> AsyncIterator[Traffic]:
    """Its upstream and downstream; the workflow is published."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(
            traffic(running.bootstrap_servers, running.deployment, running.stack.data)
        )
        await made.upstream.publish(storm())
        yield made


@pytest.mark.parametrize(
    ("service", "topic", "answers"),
    [
        (Service.WORKER, TASK_COMPLETED.name, 120),
        (Service.ORCHESTRATOR, TASK_COMPLETED.name, 150),
        (Service.INFERENCE, INFERENCE_COMPLETED.name, 60),
    ],
)
async def test_a_killed_service_comes_back_and_no_finished_step_runs_again(
    running: System, load: Traffic, service: Service, topic: str, answers: int
) -> None:
    # given 200 runs in flight, some of their steps done
    run_ids = await load.start(f"kill-{service}", RUNS)
    await load.answered(run_ids, answers, topic)

    # when the service is killed; its supervisor starts it again
    part = running.part(service)
    restarts = part.restarts
    running.send(service, 0, signal.SIGKILL)
    while part.restarts == restarts:
        await part.changed()
    answered = await load.answered_requests()

    # then all runs finish, each once, and what had been answered was not executed again
    await load.all_completed(run_ids, FINISH_SECONDS)
    load.nothing_answered_ran_again(answered)
    await settled(running.postgres_url(Service.ORCHESTRATOR), run_ids)

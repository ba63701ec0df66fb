"""Owns the promise that no kill of any service loses work, repeats finished work, or ends a run twice."""

import pytest

from penstock.contracts.topics import INFERENCE_COMPLETED, TASK_COMPLETED, TOOL_COMPLETED, Service
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic
from services.local.services import SERVICES
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

RUNS = 200
FINISH_SECONDS = 180.0
MIDDLE = {Service.INFERENCE: INFERENCE_COMPLETED.name, Service.TOOL_EXECUTOR: TOOL_COMPLETED.name}
"""Whose answers tell that a service is at work; the worker's for all others."""


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_service_comes_back_and_no_finished_step_runs_again(
    running: System, load: Traffic, service: Service
) -> None:
    # given 200 runs in flight, some of their steps done
    run_ids = await load.start(f"kill-{service}", RUNS)
    await load.answered(run_ids, RUNS // 4, MIDDLE.get(service, TASK_COMPLETED.name))

    # when the service is killed; its supervisor starts it again
    part = await running.crash(service)
    moment = await load.moment()

    # then all runs finish, each once, and what had been answered was not executed again
    await load.all_completed(run_ids, FINISH_SECONDS)
    load.ran_again_since(moment)
    await settled(running.postgres_url(Service.ORCHESTRATOR), run_ids)
    await part.until_ready(FINISH_SECONDS)
    await load.known_to_the_gateway(running.gateway_url, run_ids)

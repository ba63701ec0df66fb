"""Owns the promise that an engine lost under load loses nothing and pays for nothing twice: real vLLM and Kafka."""

import signal
from collections import Counter

import psutil
import pytest

from penstock.contracts.messages import InferenceCompleted, UsageRecorded
from penstock.contracts.topics import INFERENCE_COMPLETED, USAGE_RECORDED, Service
from penstock.testkit.downstream import downstream
from penstock.testkit.upstream import upstream
from penstock.workflow.definition import Definition
from services.inference.tests.small_vllm import small_options
from services.local.system import System, Systems

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

RUNS = 120
FINISH_SECONDS = 300.0
READY_SECONDS = 300.0
"""Importing vLLM takes long, above all the first time and on a busy machine."""
TALK = Definition.model_validate(
    {
        "name": "talk",
        "version": "1",
        "tiers": {"small": [{"pool": "small", "model": "tiny"}]},
        "do": {
            "id": "draft",
            "model": "small",
            "prompt": "Write on {{ input.topic }}.",
            "max_tokens": 64,
            "retry": {"attempts": 8, "initial_ms": 500},
        },
    }
)


def engine_process(running: System) -> psutil.Process:
    service = running.pid(Service.INFERENCE)
    (engine,) = (child for child in psutil.Process(service).children(recursive=True) if _is_engine(child))
    return engine


def _is_engine(process: psutil.Process) -> bool:
    try:
        return any("EngineCore" in part for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False  # one that has died, and was not waited for yet


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, "engine_died"), (signal.SIGSTOP, "engine_hung")], ids=["killed", "hung"]
)
async def test_an_engine_lost_under_load_loses_nothing_and_pays_for_nothing_twice(
    system: Systems, number: signal.Signals, code: str
) -> None:
    # given runs whose model calls are in the engine, some of them answered
    options = small_options(stall_seconds=5.0)
    running = await system(
        worker=0,
        tool_executor=0,
        gateway=0,
        ready_seconds=READY_SECONDS,
        service_environment={
            "inference": {
                "PENSTOCK_INFERENCE_ENGINE": "vllm",
                "PENSTOCK_INFERENCE_MODEL": "tiny",
                "PENSTOCK_INFERENCE_CONCURRENCY": "32",
                "PENSTOCK_INFERENCE_VLLM": options.model_dump_json(),
            }
        },
    )
    servers, deployment = running.bootstrap_servers, running.deployment
    async with upstream(servers) as asking, downstream(servers, deployment) as hearing:
        await asking.publish(TALK)
        run_ids = [f"run-{number}" for number in range(RUNS)]
        for run_id in run_ids:
            await asking.request("talk", {"topic": run_id}, run_id=run_id)
        await hearing.hear(INFERENCE_COMPLETED.name, RUNS // 4)

        # when the engine is lost
        lost = engine_process(running)
        lost.send_signal(number)

        # then every run completes, on an engine that was built in the same process
        ends = await hearing.finished(run_ids, FINISH_SECONDS)
        assert Counter(end.status for end in ends.values()) == {"completed": RUNS}
        assert engine_process(running).pid != lost.pid

        # and each request was answered once and is on the bill once
        completed = [InferenceCompleted.model_validate_json(r.value) for r in hearing.heard(INFERENCE_COMPLETED.name)]
        usages = [UsageRecorded.model_validate_json(r.value) for r in hearing.heard(USAGE_RECORDED.name)]
        assert code in {each.error.code for each in completed if each.error is not None}
        assert Counter(each.run_id for each in completed if each.error is None) == dict.fromkeys(run_ids, 1)
        assert set(Counter(each.request_id for each in usages).values()) == {1}
        assert {each.request_id for each in completed if each.error is None} <= {each.request_id for each in usages}

"""Owns the tests of the pattern examples: each on the local stack, with the real small model, on a real package."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from examples.patterns.show import NAMES, TASK_MODULE, TOOL_SERVERS, definition, run_pattern
from examples.patterns.tasks import TEXT_CHARACTERS_MAX, describe
from penstock.workflow.task import Failed
from services.local.system import System, Systems

AT = datetime(2026, 11, 1, tzinfo=UTC)
PACKAGE = "aiokafka"
SHOWS = {
    "chaining": ["main/said_something", "main/sentence"],
    "routing": ["main/kind/classify", "main/kind"],
    "parallelization": ["main/sides/purpose", "main/sides/audience", "main/sides/level[0]/ballot"],
    "orchestrator_worker": ["main/research[0]/plan", "main/research[0]/task[0]/answer", "main/research/digest"],
    "evaluator_optimizer": ["main/headline[0]/write", "main/headline[0]"],
    "agent_loop": ["main/find[0]/turn", "main/find[0]"],
}
"""Steps that a run of each pattern has, whatever the model says."""


@pytest.fixture(scope="module")
async def system(module_system: Systems) -> System:
    """A stack with the real model, the examples' task and the example's MCP server."""
    return await module_system(model="real", tasks=[TASK_MODULE], tools=TOOL_SERVERS)


def test_a_package_is_described_by_its_metadata() -> None:
    described = describe(PACKAGE)
    assert (described.name, described.summary) == ("aiokafka", "Kafka integration with asyncio")
    assert 0 < len(described.text) <= TEXT_CHARACTERS_MAX
    with pytest.raises(Failed, match="not installed"):
        describe("no-such-package")


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_is_sound(name: str) -> None:
    assert definition(name).name == name.replace("_", "-")


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
async def test_the_pattern_runs_on_a_real_package_with_the_real_model(system: System, name: str) -> None:
    # when a run of it is asked for on Kafka
    told = StringIO()
    console = Console(file=told, width=200)
    finished = await run_pattern(system.bootstrap_servers, system.gateway_url, name, PACKAGE, AT, console)

    # then it completes, its model calls are counted, and a person sees its steps
    assert finished.status == "completed", finished.error
    assert finished.usage.model_calls >= 1
    for step in SHOWS[name]:
        assert f" {step} " in told.getvalue(), told.getvalue()

"""Owns the system that the chaos tests share: two orchestrators, one of everything else, and load with a ledger."""

from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.testkit import counted_tools
from penstock.testkit.engine import scripted_engine
from penstock.testkit.traffic import Traffic, storm, traffic
from services.local.fixtures import temporary_folder
from services.local.system import System, systems

SERVERS = """servers:
  counted:
    command: "{{python}}"
    args: [{path}]
"""


@dataclass(slots=True)
class Fleet:
    """What the tests of this folder share."""

    running: System
    load: Traffic


def engine_environment(url: str) -> Mapping[str, Mapping[str, str]]:
    """A real engine client against the scripted engine; few tasks at a time, so that a kill lands in the middle."""
    return {
        "inference": {
            "PENSTOCK_INFERENCE_ENGINE": "openai",
            "PENSTOCK_INFERENCE_BASE_URL": url,
            "PENSTOCK_INFERENCE_CONCURRENCY": "16",
        },
        "worker": {"PENSTOCK_WORKER_IN_FLIGHT": "16"},
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last log lines of every part where a test failed."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if call.when == "call" and report.failed and isinstance(fleet, Fleet):
        for name, part in fleet.running.stack.parts.items():
            report.sections.append((f"log of {name}, started {part.restarts + 1} times", "\n".join(part.last_lines())))
    return report


@pytest.fixture(scope="session")
async def fleet() -> AsyncIterator[Fleet]:
    """Started once for all tests here; each test leaves it whole."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(scripted_engine())
        folder = await stack.enter_async_context(temporary_folder())
        servers = folder / "servers.yaml"
        servers.write_text(SERVERS.format(path=Path(counted_tools.__file__)))
        factory = await stack.enter_async_context(systems())
        running = await factory(
            orchestrator=2,
            tasks=["penstock.testkit.counted"],
            tools=servers,
            service_environment=engine_environment(engine.url),
        )
        load = await stack.enter_async_context(traffic(running.bootstrap_servers, running.deployment, engine, folder))
        await load.upstream.publish(storm())
        yield Fleet(running, load)


@pytest.fixture
async def running(fleet: Fleet) -> System:
    """The system, with all its parts up whatever the test before did."""
    for part in fleet.running.stack.parts.values():
        await part.start()
    return fleet.running


@pytest.fixture
def load(fleet: Fleet) -> Traffic:
    """The system's upstream, downstream, engine and ledger."""
    return fleet.load

"""Owns the tests of the supervising process: it starts all, keeps it, reports it, stops it, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from penstock.runtime.kafka.admin import plan
from services.local import detached
from services.local import status as status_of
from services.local.fixtures import temporary_folder
from services.local.options import Counts, Options
from services.local.part import PartChange, PartState
from services.local.settings import python_environment
from services.local.status import Status

pytestmark = pytest.mark.stack

NO_SERVICES = Options(
    model="simulated", counts=Counts(orchestrator=0, inference=0, tool_executor=0, worker=0, gateway=0)
)
END_SECONDS = 30


@pytest.fixture(scope="module")
async def data() -> AsyncIterator[Path]:
    """A data folder whose stack is stopped in the end."""
    async with temporary_folder() as folder:
        yield folder / "data"
        detached.stop(folder / "data")


def up(data: Path, options: Options = NO_SERVICES) -> list[PartChange]:
    """Start a stack in the background; what was reported meanwhile."""
    changes: list[PartChange] = []
    detached.start(data, options, lambda _, change: changes.append(change) if change else None)
    return changes


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a person types."""
    return subprocess.run(
        [sys.executable, "-m", "services.local", *arguments, "--data", str(data)],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def processes(status: Status) -> list[psutil.Process]:
    """The supervisor and everything under it."""
    supervisor = psutil.Process(status.supervisor_pid)
    return [supervisor, *supervisor.children(recursive=True)]


def test_it_starts_reports_and_starts_once(data: Path) -> None:
    # given nothing, when a stack is started in the background
    before = command(data, "status", "--json")
    changes = up(data)

    # then every part was reported on its way, and is said to be ready
    assert before.returncode == 3
    assert json.loads(before.stdout)["state"] == "stopped"
    assert {(change.part, change.state) for change in changes} >= {
        ("kafka", PartState.STARTING),
        ("kafka", PartState.READY),
        ("postgres", PartState.READY),
    }
    said: dict[str, Any] = json.loads(command(data, "status", "--json").stdout)
    assert said["state"] == "running"
    assert {name: part["state"] for name, part in said["parts"].items()} == {"kafka": "ready", "postgres": "ready"}
    assert said["postgres_url"].startswith("postgresql://penstock:")
    assert said["bootstrap_servers"] == f"127.0.0.1:{said['parts']['kafka']['ports']['port']}"

    # when it is started again, then it says so and touches nothing
    again = command(data, "up")
    assert again.returncode == 0
    assert "Already running" in again.stdout
    assert json.loads(command(data, "status", "--json").stdout) == said


async def test_the_topics_are_the_registrys(data: Path) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=status_of.read(data).bootstrap_servers)
    await admin.start()
    described = {each["topic"]: len(each["partitions"]) for each in await admin.describe_topics()}
    await admin.close()

    own = {name: count for name, count in described.items() if not name.startswith("__")}
    assert own == {each.name: each.partitions for each in plan(NO_SERVICES.deployment)}


def test_a_part_that_dies_is_started_again_and_counted(data: Path) -> None:
    # given a running stack, when its broker is killed
    broker = psutil.Process(status_of.read(data).parts["kafka"].pid)
    broker.kill()
    broker.wait(timeout=END_SECONDS)

    # then the status comes to say that it was started once more
    wait_until_ready_again(data, "kafka", broker.pid)
    assert status_of.read(data).parts["kafka"].restarts == 1


def test_a_killed_supervisor_leaves_no_process_and_the_data(data: Path) -> None:
    # given a running stack
    running = status_of.read(data)
    everything = processes(running)
    assert len(everything) > 4  # the supervisor, its keeper, the broker, the server and the server's children

    # when the supervisor is killed
    os.kill(everything[0].pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(everything, timeout=END_SECONDS)

    # then all is gone, nobody claims otherwise, and the next start finds its data and its ports
    assert alive == []
    assert status_of.read(data).state == "stopped"
    up(data)
    now = status_of.read(data)
    assert now.bootstrap_servers == running.bootstrap_servers
    assert now.postgres_url == running.postgres_url


def test_down_stops_everything_and_waits(data: Path) -> None:
    everything = processes(status_of.read(data))

    done = command(data, "down")

    assert done.returncode == 0
    assert not any(process.is_running() for process in everything)
    assert "Nothing runs" in command(data, "down").stdout


def test_without_its_keeper_a_killed_supervisor_leaves_no_process(data: Path) -> None:
    # given a running stack whose keeper is gone: only the kernel's death signal is left
    up(data, NO_SERVICES.model_copy(update={"counts": NO_SERVICES.counts.model_copy(update={"tool_executor": 1})}))
    everything = processes(status_of.read(data))
    keeper = next(process for process in everything if any("keeper.py" in part for part in process.cmdline()))
    keeper.kill()

    # when it is killed
    everything[0].kill()
    _, alive = psutil.wait_procs(everything, timeout=END_SECONDS)

    # then all is gone
    assert alive == []


def wait_until_ready_again(data: Path, name: str, old_pid: int) -> None:
    """Follow the status file, which is all that another process sees of a running supervisor."""
    while True:
        part = status_of.read(data).parts[name]
        if part.state is PartState.READY and part.pid != old_pid:
            return
        time.sleep(0.05)

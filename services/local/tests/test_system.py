"""Owns the tests of the fixture `system`: chosen counts, and faults done to single processes."""

import http.client
import signal

import pytest

from services.local import probes
from services.local.part import PartState
from services.local.system import Systems

pytestmark = pytest.mark.stack


async def test_processes_can_be_killed_started_and_added(system: Systems) -> None:
    # given a system of two workers alone
    running = await system(orchestrator=0, inference=0, tool_executor=0, gateway=0, worker=2)
    first = running.pid("worker", 0)

    # when one is killed, then it stays away and the other goes on
    await running.kill("worker", 0)
    assert running.pid("worker", 0) is None
    assert running.part("worker", 1).state is PartState.READY

    # when it is started again and another is added, then all are ready and each answers for itself
    await running.restart("worker", 0)
    assert await running.add("worker") == 2
    assert running.pid("worker", 0) not in (None, first)
    ports = {running.part("worker", index).spec.ports["health_port"] for index in range(3)}
    assert [probes.http_status(port, "/readyz") for port in ports] == [http.client.OK] * 3
    assert "worker" in running.logs("worker", 2)


async def test_a_service_that_dies_by_itself_comes_back(system: Systems) -> None:
    # given a worker, when somebody kills it from outside
    running = await system(orchestrator=0, inference=0, tool_executor=0, gateway=0)
    part = running.part("worker")
    first = part.pid
    running.send("worker", 0, signal.SIGKILL)
    while part.restarts == 0:
        await part.changed()
    await part.until_ready()

    # then another is there
    assert part.pid not in (None, first)

"""Outages and company: nothing is lost while a part is away, and a stream sees what another gateway read."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from penstock.contracts import ids
from penstock.contracts.envelope import Envelope, encode, rfc3339
from penstock.contracts.messages import RunFinished, RunProgressed
from penstock.contracts.topics import RUN_FINISHED, RUN_PROGRESSED, Service, Topic
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from services.gateway.tests.noon import NOON
from services.local.system import System, Systems

pytestmark = [pytest.mark.stack, pytest.mark.chaos, pytest.mark.slow]

SECONDS_MAX = 120.0


async def say(publisher: Publisher, topic: Topic[Any], message: Any) -> None:
    """What the orchestrator would publish."""
    envelope = Envelope(
        id=message.run_id, type=topic.event_type, source="test", time=rfc3339(round(NOON.timestamp() * 1000))
    )
    await publisher.send([encode(topic, message, envelope, key=message.run_id)])


def progressed(run_id: str, sequence: int, status: Any = "running") -> RunProgressed:
    return RunProgressed(
        run_key=ids.run_key("default", run_id),
        run_id=run_id,
        tenant="default",
        workflow="greet",
        version="1",
        sequence=sequence,
        status=status,
        at=NOON + timedelta(seconds=sequence),
    )


async def until_sequence(system: System, run_id: str, sequence: int) -> None:
    """Returns when the gateway has read so far."""
    async with httpx.AsyncClient(base_url=system.gateway_url, timeout=60) as http, asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                answer = await http.get(f"/v1/runs/{run_id}")
            except httpx.TransportError:
                continue
            if answer.status_code == 200 and answer.json()["sequence"] == sequence:
                return
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def system(module_system: Systems) -> System:
    """Two gateways alone."""
    return await module_system(orchestrator=0, inference=0, tool_executor=0, worker=0, gateway=2)


@pytest.mark.parametrize("part", ["kafka", "postgres"])
async def test_what_comes_while_a_part_is_away_is_read_when_it_is_back(system: System, part: str) -> None:
    # Given gateways that read
    publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(system.bootstrap_servers))
    await publisher.start()
    runs = [f"{part}-{number}" for number in range(20)]
    for run_id in runs:
        await say(publisher, RUN_PROGRESSED, progressed(run_id, 1))
    await until_sequence(system, runs[0], 1)

    # When the part goes away under load and comes back
    stop, start = (
        (system.stop_kafka, system.start_kafka) if part == "kafka" else (system.stop_postgres, system.start_postgres)
    )
    sending = asyncio.gather(*(say(publisher, RUN_PROGRESSED, progressed(run_id, 2)) for run_id in runs))
    await stop()
    if part == "postgres":
        async with httpx.AsyncClient(base_url=system.gateway_url, timeout=60) as http:
            answer = await http.get(f"/v1/runs/{runs[0]}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    later = asyncio.gather(*(say(publisher, RUN_PROGRESSED, progressed(run_id, 3)) for run_id in runs))
    await start()
    await sending
    await later

    # Then every record is in the tables, and nobody helped
    await asyncio.gather(*(until_sequence(system, run_id, 3) for run_id in runs))
    await publisher.stop()


async def test_a_stream_sees_what_another_gateway_read(system: System) -> None:
    # Given somebody at each gateway who watches every run
    publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(system.bootstrap_servers))
    await publisher.start()
    runs = [f"shared-{number}" for number in range(8)]
    for run_id in runs:
        await say(publisher, RUN_PROGRESSED, progressed(run_id, 1))
    for run_id in runs:
        await until_sequence(system, run_id, 1)
    urls = [f"http://127.0.0.1:{system.part('gateway', index).spec.ports['port']}" for index in range(2)]
    watching = [asyncio.create_task(events_of(f"{url}/v1/runs/{run_id}/events")) for url in urls for run_id in runs]

    # When all runs end; each partition is read by one of the two
    for run_id in runs:
        await say(publisher, RUN_PROGRESSED, progressed(run_id, 2, "completed"))
        end = RunFinished(
            run_id=run_id,
            workflow="greet",
            version="1",
            tenant="default",
            status="completed",
            started_at=NOON,
            finished_at=NOON + timedelta(seconds=2),
        )
        await say(publisher, RUN_FINISHED, end)

    # Then all watchers saw all of it
    for seen in await asyncio.wait_for(asyncio.gather(*watching), SECONDS_MAX):
        assert seen == ["progress", "progress", "finished"]
    await publisher.stop()


async def events_of(url: str) -> list[str]:
    """The names of a stream's events."""
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url) as stream:
        return [line.removeprefix("event: ") async for line in stream.aiter_lines() if line.startswith("event: ")]

"""A whole gateway in this process, on real Kafka and Postgres, and a client that speaks to its socket."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from penstock.contracts.envelope import Envelope, Outgoing, encode
from penstock.contracts.messages import Message
from penstock.contracts.topics import Service, Topic
from penstock.runtime.health import Health
from penstock.runtime.kafka.admin import ensure_topics
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.service import Context
from penstock.runtime.telemetry import Instruments, logger
from services.gateway.server import bind
from services.gateway.service import main
from services.gateway.settings import GatewaySettings
from services.local.fixtures import SharedStack

GREET: dict[str, Any] = {
    "name": "greet",
    "input": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    },
    "tiers": {"small": [{"pool": "small", "model": "smollm2-135m"}]},
    "do": {"id": "greeting", "model": "small", "prompt": "Greet {{ input.name }}."},
}


@dataclass
class Running:
    """A gateway and what speaks to it."""

    settings: GatewaySettings
    http: httpx.AsyncClient
    publishers: dict[Service, Publisher]

    async def say(self, topic: Topic[Any], message: Message, key: str) -> None:
        """What another service would publish."""
        envelope = Envelope(id=key, type=topic.event_type, source="penstock/test", time="2026-11-21T12:00:00Z")
        await self.send(topic, encode(topic, message, envelope, key=key))

    async def send(self, topic: Topic[Any], record: Outgoing) -> None:
        """A record as it is, from a service that may send it."""
        speaker = next(publisher for service, publisher in self.publishers.items() if service in topic.producers)
        await speaker.send([record])

    async def until(self, path: str, field: str, wanted: object) -> httpx.Response:
        """Asks until the answer has what is wanted."""
        return await self.until_holds(path, lambda body: bool(body.get(field) == wanted))

    async def until_holds(self, path: str, holds: Callable[[dict[str, Any]], bool]) -> httpx.Response:
        """Asks until the answer is as it should be; topics are read apart, so one can be ahead of another."""
        async with asyncio.timeout(30):
            while True:
                answer = await self.http.get(path)
                if answer.status_code == 200 and holds(answer.json()):
                    return answer
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
async def gateway(stack: SharedStack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """One gateway for a module's tests."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    settings = GatewaySettings(
        kafka_bootstrap_servers=stack.bootstrap_servers,
        postgres_url=await stack.new_database(),
        gateway_port=port,
        gateway_tenants=("default", "acme"),
        gateway_body_bytes_max=64 * 1024,
        blob_url=tmp_path_factory.mktemp("blobs").as_uri(),
        instance="test",
    )
    await ensure_topics(stack.bootstrap_servers, settings.deployment)
    registry = CollectorRegistry()
    context = Context(
        settings, Service.GATEWAY, asyncio.Event(), Health(), registry, Instruments(registry), logger("test")
    )
    running = asyncio.create_task(main(context))
    speakers = (Service.ORCHESTRATOR, Service.WORKER, Service.INFERENCE)
    publishers = {service: Publisher(service, KafkaBroker(stack.bootstrap_servers)) for service in speakers}
    for publisher in publishers.values():
        await publisher.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.gateway_port}", timeout=30) as http:
        async with asyncio.timeout(30):
            while not context.health.ready:
                assert not running.done(), running.exception()
                await asyncio.sleep(0.02)
        answer = await http.put("/v1/workflows/greet", json=GREET)
        assert answer.status_code == 201, answer.text
        yield Running(settings, http, publishers)
    context.stop.set()
    await running
    for publisher in publishers.values():
        await publisher.stop()

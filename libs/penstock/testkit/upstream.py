"""Owns the systems that speak to Penstock as tests play them: upstream with plain JSON, authors with definitions."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaProducer

from penstock.contracts.envelope import Envelope, Headers, encode, rfc3339
from penstock.contracts.topics import RUN_REQUESTED, RUN_SIGNALLED, WORKFLOW_PUBLISHED
from penstock.runtime.clock import now_ms
from penstock.workflow.definition import Definition
from penstock.workflow.publish import published

OUTAGE_MS_MAX: Final = 120_000
"""How long a record is tried: longer than any outage that a test makes."""


class Upstream:
    """Publishes as a system that knows the topics and nothing else: no key, no headers unless a test gives them."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer: Final = producer

    async def request(
        self,
        workflow: str,
        given_input: Any = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
        **fields: Any,
    ) -> None:
        """Ask for a run; returns when the broker has the record."""
        body = {"workflow": workflow, "input": {} if given_input is None else given_input, **fields}
        await self.say(RUN_REQUESTED.name, orjson.dumps(body), partition=partition, headers=headers)

    async def signal(self, run_id: str, kind: str, *, partition: int | None = None, **fields: Any) -> None:
        """Say something to a run."""
        body = orjson.dumps({"run_id": run_id, "kind": kind, **fields})
        await self.say(RUN_SIGNALLED.name, body, key=run_id.encode(), partition=partition)

    async def publish(self, *definitions: Definition) -> None:
        """Publish definitions as the command does."""
        for definition in definitions:
            at_ms = now_ms()
            message = published(definition, datetime.fromtimestamp(at_ms / 1000, UTC))
            key = f"{message.name}@{message.version}"
            envelope = Envelope(id=key, type=WORKFLOW_PUBLISHED.event_type, source="penstock/cli", time=rfc3339(at_ms))
            record = encode(WORKFLOW_PUBLISHED, message, envelope, key=key)
            await self.say(record.topic, record.value, key=record.key, headers=record.headers)

    async def say(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        partition: int | None = None,
    ) -> int:
        """Publish one record, whatever it is; its offset."""
        place = await self._producer.send_and_wait(
            topic, value, key=key, headers=list(headers or ()), partition=partition
        )
        offset: int = place.offset
        return offset


@asynccontextmanager
async def upstream(bootstrap_servers: str) -> AsyncIterator[Upstream]:
    """An upstream system, connected."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", request_timeout_ms=OUTAGE_MS_MAX)
    await producer.start()
    try:
        yield Upstream(producer)
    finally:
        await producer.stop()

"""Owns sending: the definition and a run's request onto their topics, as any other system's producer would.

Plain JSON without headers: what the envelope would say is filled in on the other side.
"""

from datetime import datetime

from aiokafka import AIOKafkaProducer

from penstock.contracts.messages import Message, RunRequested
from penstock.contracts.topics import RUN_REQUESTED, WORKFLOW_PUBLISHED
from penstock.workflow.definition import Definition
from penstock.workflow.publish import published


async def submit(bootstrap_servers: str, definition: Definition, request: RunRequested, at: datetime) -> None:
    """Publish the definition and ask for one run of exactly that version."""
    workflow = published(definition, at)
    versioned = f"{workflow.name}@{workflow.version}"
    pinned = request.model_copy(update={"workflow": versioned})
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True) as producer:
        await _send(producer, WORKFLOW_PUBLISHED.name, versioned, workflow)
        await _send(producer, RUN_REQUESTED.name, pinned.run_id or "", pinned)


async def _send(producer: AIOKafkaProducer, topic: str, key: str, message: Message) -> None:
    await producer.send_and_wait(topic, message.to_json(), key.encode())

"""Owns the parameter of the conformance suite: every test runs on the in-memory log and on real Kafka."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.testkit.world import PARTITIONS, World, kafka_world, memory_world


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.stack)])
def real_stack(request: pytest.FixtureRequest) -> Any:
    """The stack where the test runs on Kafka, else None."""
    return request.getfixturevalue("stack") if request.param == "kafka" else None


@pytest.fixture
async def world(real_stack: Any) -> AsyncIterator[World]:
    """A broker with empty topics of two partitions."""
    made_in = (
        memory_world() if real_stack is None else kafka_world(real_stack.bootstrap_servers, real_stack.create_topics)
    )
    async with made_in as made:
        topics = [made.requested, made.urgent]
        await made.create({name: PARTITIONS for topic in topics for name in (topic, f"dlq.{topic}")})
        try:
            yield made
        finally:
            await made.end()

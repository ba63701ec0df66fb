"""What the administration promises on real Kafka: topics as the registry says, lag as it is."""

import asyncio
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Deployment, Service
from penstock.runtime.kafka.admin import TopicMismatchError, ensure_topics, group_lag, plan
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received

pytestmark = pytest.mark.stack


async def test_topics_are_created_once(stack: Any) -> None:
    """Given a new queue, when topics are ensured twice, then its topics were created by the first call alone."""
    deployment = Deployment(queues=(stack.new_name("queue"),))
    name = f"penstock.task.{deployment.queues[0]}.requested.v1"

    created = await ensure_topics(stack.bootstrap_servers, deployment)

    assert {name, f"dlq.{name}"} <= set(created)
    assert await ensure_topics(stack.bootstrap_servers, deployment) == []


async def test_another_partition_count_is_an_error(stack: Any) -> None:
    """Given topics, when a deployment wants other partition counts, then the error lists what differs."""
    queue = stack.new_name("queue")
    await ensure_topics(stack.bootstrap_servers, Deployment(queues=(queue,)))

    with pytest.raises(TopicMismatchError, match=f"{queue}.* has 4 partitions, this deployment wants 6"):
        await ensure_topics(stack.bootstrap_servers, Deployment(queues=(queue,), work_partitions=6))


async def test_topics_have_the_registrys_settings(stack: Any) -> None:
    """Given created topics, then retention, compaction and the size of dead letters are as planned."""
    deployment = Deployment(queues=(stack.new_name("queue"),))
    await ensure_topics(stack.bootstrap_servers, deployment)
    wanted = [each for each in plan(deployment) if deployment.queues[0] in each.name]
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap_servers)
    await admin.start()
    try:
        for each in wanted:
            (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, each.name)])
            found = {entry[0]: entry[1] for entry in answer.resources[0][4]}
            assert {key: found[key] for key in each.settings} == dict(each.settings)
    finally:
        await admin.close()


async def test_lag_is_what_the_group_has_not_committed(stack: Any) -> None:
    """Given a group that finished 3 of 5 records, when its lag is asked for, then it is 2."""
    deployment = Deployment(queues=(stack.new_name("queue"),))
    await ensure_topics(stack.bootstrap_servers, deployment)
    topic = f"penstock.task.{deployment.queues[0]}.requested.v1"
    broker = KafkaBroker(stack.bootstrap_servers)
    publisher = Publisher(Service.ORCHESTRATOR, broker)
    await publisher.start()
    handled = asyncio.Event()
    count = 0

    async def handle(record: Received) -> list[Outgoing]:
        nonlocal count
        count += 1
        if count == 3:
            handled.set()
        return []

    async def send(values: list[bytes]) -> None:
        await publisher.send([Outgoing(topic, None, value, [], 0) for value in values])

    group, stop = stack.new_name("group"), asyncio.Event()
    await send([b"1", b"2", b"3"])
    consumer = InFlightConsumer(Service.WORKER, [topic], group, handle, publisher, broker)
    running = asyncio.create_task(consumer.run(stop))
    await asyncio.wait_for(handled.wait(), 30)
    stop.set()
    await running
    await send([b"4", b"5"])

    (lag,) = await group_lag(stack.bootstrap_servers, [group])

    assert (lag.group, lag.topic, lag.total, lag.partitions[0]) == (group, topic, 2, 2)
    await publisher.stop()

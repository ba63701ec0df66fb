"""Owns the creation of the registry's topics on the local broker."""

import asyncio

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from penstock.contracts.topics import TOPICS, Deployment, dead_letter_topic
from services.local import probes

VISIBLE_SECONDS = 10.0


def wanted(deployment: Deployment) -> dict[str, NewTopic]:
    """The broker topics of a deployment, dead letters included."""
    topics: dict[str, NewTopic] = {}
    for topic in TOPICS:
        config = {"cleanup.policy": "compact" if topic.compacted else "delete"}
        if not topic.compacted:
            config["retention.ms"] = str(topic.retention_ms)
        count = deployment.partitions(topic.group)
        for name in deployment.names(topic):
            topics[name] = NewTopic(name, count, deployment.replication_factor, topic_configs=config)
            dead = dead_letter_topic(name)
            topics[dead] = NewTopic(dead, 1, deployment.replication_factor)
    return topics


async def ensure_topics(bootstrap_servers: str, deployment: Deployment) -> None:
    """Create what is missing, and wait until the broker serves it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        topics = wanted(deployment)
        missing = [topics[name] for name in topics.keys() - set(await admin.list_topics())]
        if missing:
            answer = await admin.create_topics(missing)
            for name, code, message in answer.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise for_code(code)(f"{name}: {message}")

        async def visible() -> bool:
            return topics.keys() <= set(await admin.list_topics())

        await asyncio.wait_for(probes.until(visible), VISIBLE_SECONDS)
    finally:
        await admin.close()

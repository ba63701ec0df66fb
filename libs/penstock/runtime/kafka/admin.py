"""Owns broker topics and group lag: creates what the registry says, compares, never alters."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from penstock.contracts.topics import (
    DAY_MS,
    DEAD_LETTER_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    TOPICS,
    Deployment,
    PartitionGroup,
    dead_letter_topic,
)
from penstock.runtime.errors import PenstockError
from penstock.runtime.kafka.broker import GroupSettings, KafkaBroker, connect
from penstock.runtime.kafka.records import TopicPartition
from penstock.runtime.telemetry import LogEvent, logger

DEAD_LETTER_RETENTION_MS = 30 * DAY_MS
CREATED_SECONDS_MAX = 30.0


class TopicMismatchError(PenstockError):
    """Topics exist with other partition counts than this deployment's; the message lists them."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A broker topic as the registry wants it."""

    name: str
    partitions: int
    settings: Mapping[str, str]


@dataclass(slots=True)
class GroupLag:
    """How far one group is behind on one topic."""

    group: str
    topic: str
    partitions: dict[int, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    """The next offset the group reads, per partition."""

    @property
    def total(self) -> int:
        """Over all partitions."""
        return sum(self.partitions.values())


def plan(deployment: Deployment) -> list[TopicPlan]:
    """All broker topics of a deployment: the registry's, and a dead letter topic for each that is consumed."""
    plans: list[TopicPlan] = []
    for topic in TOPICS:
        partitions = deployment.partitions(topic.group)
        settings = {"max.message.bytes": str(MESSAGE_BYTES_MAX), "cleanup.policy": ",".join(topic.cleanup)}
        if "delete" in topic.cleanup:
            settings["retention.ms"] = str(topic.retention_ms)
        for name in deployment.names(topic):
            plans.append(TopicPlan(name, partitions, settings))
            # No partition count to agree on: a dead letter is found by its headers.
            broadcast = deployment.partitions(PartitionGroup.BROADCAST)
            letters = {
                "cleanup.policy": "delete",
                "retention.ms": str(DEAD_LETTER_RETENTION_MS),
                "max.message.bytes": str(DEAD_LETTER_BYTES_MAX),
            }
            plans.append(TopicPlan(dead_letter_topic(name), broadcast, letters))
    return plans


async def ensure_topics(bootstrap: str, deployment: Deployment, *, stop: asyncio.Event | None = None) -> list[str]:
    """Create what is missing; answers the names created. Raises TopicMismatchError where a partition count differs."""
    wanted = {each.name: each for each in plan(deployment)}
    async with _admin(bootstrap, stop) as admin:
        existing = await _partition_counts(admin, wanted)
        wrong = [
            f"{name} has {count} partitions, this deployment wants {wanted[name].partitions}"
            for name, count in sorted(existing.items())
            if count != wanted[name].partitions
        ]
        if wrong:
            raise TopicMismatchError("\n".join(wrong))
        missing = [each for name, each in wanted.items() if name not in existing]
        if missing:
            await _create(admin, missing, deployment.replication_factor)
            await _until_led(admin, [each.name for each in missing])
    return [each.name for each in missing]


async def group_lag(bootstrap: str, groups: Iterable[str] | None = None) -> list[GroupLag]:
    """The lag of groups (all, where none are named) on every topic they have committed on."""
    lags: dict[tuple[str, str], GroupLag] = {}
    async with _admin(bootstrap, None) as admin:
        names = [name for name, _ in await admin.list_consumer_groups()] if groups is None else list(groups)
        committed = {name: await admin.list_consumer_group_offsets(name) for name in names}
        partitions = {partition for offsets in committed.values() for partition in offsets}
        ends = await _end_offsets(bootstrap, partitions)
    for group, offsets in committed.items():
        for partition, position in offsets.items():
            lag = lags.setdefault((group, partition.topic), GroupLag(group, partition.topic))
            if partition in ends:
                lag.positions[partition.partition] = max(0, position.offset)
                lag.partitions[partition.partition] = max(0, ends[partition] - lag.positions[partition.partition])
    return [lags[key] for key in sorted(lags)]


@contextlib.asynccontextmanager
async def _admin(bootstrap: str, stop: asyncio.Event | None) -> AsyncIterator[AIOKafkaAdminClient]:
    servers = [server.strip() for server in bootstrap.split(",")]
    admin = await connect(
        lambda: AIOKafkaAdminClient(bootstrap_servers=servers),
        lambda client: client.start(),
        bootstrap,
        stop or asyncio.Event(),
    )
    try:
        yield admin
    finally:
        await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    present = set(await admin.list_topics())
    asked = [name for name in names if name in present]
    if not asked:
        return {}
    return {each["topic"]: len(each["partitions"]) for each in await admin.describe_topics(asked)}


async def _create(admin: AIOKafkaAdminClient, plans: list[TopicPlan], replication_factor: int) -> None:
    response = await admin.create_topics(
        [NewTopic(each.name, each.partitions, replication_factor, topic_configs=dict(each.settings)) for each in plans]
    )
    # Errors come back as codes and are never raised by the client.
    for name, code, *message in response.topic_errors:
        error = for_code(code)
        if code == 0:
            logger("kafka").info(LogEvent.TOPIC_CREATED, topic=name)
        elif error is not TopicAlreadyExistsError:  # another instance was faster
            raise PenstockError(f"cannot create {name}: {error.__name__} {message[0] if message else ''}")


async def _until_led(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    """A new topic is listed a moment before its partitions have leaders."""
    async with asyncio.timeout(CREATED_SECONDS_MAX):
        while True:
            described = await admin.describe_topics(names)
            if all(p["leader"] >= 0 for each in described for p in each["partitions"]) and all(
                each["partitions"] for each in described
            ):
                return
            await asyncio.sleep(0.05)


async def _end_offsets(bootstrap: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
    wanted = list(partitions)
    if not wanted:
        return {}
    broker = KafkaBroker(bootstrap)
    reader = broker.consumer(GroupSettings(None))
    await reader.start()
    try:
        return await reader.end_offsets(wanted)
    finally:
        await reader.stop()

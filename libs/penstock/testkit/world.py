"""Owns the two worlds that conformance tests run in: one broker each, the in-memory log and real Kafka."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.attempts import Handler
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, KafkaBroker, Producer
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.owned import BatchOwner, OwnedBatchConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.testkit.log import MemoryLog

PARTITIONS = 2
WAIT_SECONDS = 30.0
_numbers = itertools.count(1)

Create = Callable[[dict[str, int]], Coroutine[Any, Any, None]]


class Crashable:
    """A broker whose consumers can drop dead: nothing they do afterwards has an effect."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.name = broker.name
        self.consumers: list[Consumer] = []

    def producer(self, *, compression: str | None, batch_bytes_max: int) -> Producer:
        """As the real one."""
        return self._broker.producer(compression=compression, batch_bytes_max=batch_bytes_max)

    def consumer(self, settings: GroupSettings) -> Consumer:
        """As the real one, but remembered."""
        consumer = self._broker.consumer(settings)
        self.consumers.append(consumer)
        return consumer

    async def crash(self) -> None:
        """The members are gone without a commit."""

        async def nothing(_: Mapping[TopicPartition, int]) -> None:
            return None

        for consumer in self.consumers:
            consumer.commit = nothing  # type: ignore[method-assign, assignment]  # that is the fault
            await consumer.stop()


@dataclass
class World:
    """One broker with topics that no other test uses."""

    broker: Broker
    write: Callable[..., Coroutine[Any, Any, None]]
    create: Create
    memory: MemoryLog | None
    queue: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    awaited: set[asyncio.Task[None]] = field(default_factory=set)
    publishers: list[Publisher] = field(default_factory=list)

    @property
    def requested(self) -> str:
        """A topic that a worker consumes."""
        return f"penstock.task.{self.queue}.requested.v1"

    @property
    def urgent(self) -> str:
        """Another one."""
        return f"penstock.task.{self.queue}u.requested.v1"

    @property
    def completed(self) -> str:
        """A topic that a tester of the worker's publisher may write: a dead letter of what it consumes."""
        return f"dlq.{self.requested}"

    async def fill(self, names: Sequence[bytes], partition: int = 0, topic: str | None = None) -> None:
        """Write records that have an id of their own."""
        for name in names:
            headers = [("ce_id", name), ("ce_source", b"test")]
            await self.write(topic or self.requested, b"k", name, partition, headers)

    async def committed(self, group: str, partition: int = 0) -> int | None:
        """What a group has committed for the topic of requests."""
        asked = TopicPartition(self.requested, partition)
        if self.memory is not None:
            return self.memory.committed[group].get(asked)
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.name)
        await admin.start()
        try:
            found = (await admin.list_consumer_group_offsets(group)).get(asked)
        finally:
            await admin.close()
        return None if found is None else int(found.offset)

    async def publisher(self, **options: Any) -> Publisher:
        """A worker's publisher, stopped at the end."""
        publisher = Publisher(Service.WORKER, self.broker, **options)
        await publisher.start()
        self.publishers.append(publisher)
        return publisher

    async def in_flight(self, handler: Handler, *, broker: Broker | None = None, **options: Any) -> InFlightConsumer:
        """A worker's consumer, not running yet."""
        publisher = await self.publisher()
        topics = options.pop("topics", [self.requested])
        group = options.pop("group", f"group-{self.queue}")
        return InFlightConsumer(Service.WORKER, topics, group, handler, publisher, broker or self.broker, **options)

    def owned(self, owner: BatchOwner, **options: Any) -> OwnedBatchConsumer:
        """A consumer of batches, not running yet."""
        topics = options.pop("topics", [self.requested])
        return OwnedBatchConsumer(Service.WORKER, topics, f"owner-{self.queue}", owner, self.broker, **options)

    def run(
        self, consumer: InFlightConsumer | OwnedBatchConsumer, stop: asyncio.Event | None = None
    ) -> "asyncio.Task[None]":
        """Run until the end of the test, or until its own `stop`."""
        task = asyncio.create_task(consumer.run(stop or self.stop))
        self.tasks.append(task)
        return task

    async def end(self) -> None:
        """Stop whatever runs. Raises what a consumer raised, unless its test awaited it."""
        self.stop.set()
        await within(asyncio.gather(*self.tasks, return_exceptions=True))
        for publisher in self.publishers:
            await publisher.stop()
        for task in self.tasks:
            if task not in self.awaited and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def result(self, task: "asyncio.Task[None]") -> None:
        """How a consumer ended."""
        self.awaited.add(task)
        await within(task)

    async def read(self, topic: str, count: int, *, partitions: int = PARTITIONS) -> list[Received]:
        """The first `count` records of a topic, as somebody without a group sees them."""
        consumer = self.broker.consumer(GroupSettings(None))
        await consumer.start()
        try:
            chosen = [TopicPartition(topic, number) for number in range(partitions)]
            consumer.assign(chosen)
            await consumer.seek_to_beginning(*chosen)
            records: list[Received] = []
            async with asyncio.timeout(WAIT_SECONDS):
                while len(records) < count:
                    for batch in (await consumer.getmany(*chosen, timeout_ms=1000)).values():
                        records.extend(batch)
            return records
        finally:
            await consumer.stop()


async def within(awaitable: Any) -> Any:
    """The result, or a failure long after it should have been there."""
    return await asyncio.wait_for(awaitable, WAIT_SECONDS)


def outgoing(topic: str, value: bytes, *, key: bytes | None = b"k", partition: int | None = None) -> Outgoing:
    """A record with a header of its own."""
    return Outgoing(topic, key, value, [("ce_id", value)], partition)


def values(records: Sequence[Received]) -> list[bytes | None]:
    """What the records hold."""
    return [record.value for record in records]


@asynccontextmanager
async def memory_world() -> AsyncIterator[World]:
    """The in-memory log."""
    log = MemoryLog({})

    async def write(topic: str, key: bytes | None, value: bytes | None, partition: int, headers: Any = ()) -> None:
        log.append(topic, key=key, value=value, headers=headers, partition=partition)

    async def create(topics: dict[str, int]) -> None:
        for topic, count in topics.items():
            log.create_topic(topic, count)

    yield World(log, write, create, log, f"q{next(_numbers)}")


@asynccontextmanager
async def kafka_world(bootstrap_servers: str, create: Create) -> AsyncIterator[World]:
    """Real Kafka; `create` creates topics there."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    await producer.start()

    async def write(topic: str, key: bytes | None, value: bytes | None, partition: int, headers: Any = ()) -> None:
        await producer.send_and_wait(topic, value, key, partition, headers=list(headers))

    try:
        yield World(KafkaBroker(bootstrap_servers), write, create, None, f"q{next(_numbers)}")
    finally:
        await producer.stop()

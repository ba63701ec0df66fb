"""Owns the seam to Kafka: what the publisher and the consumer shapes need of a broker, and the real one.

The in-memory log of the testkit is the other broker; contracts-tests/conformance holds both to the same behaviour.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from penstock.runtime.errors import Unavailable
from penstock.runtime.kafka import encoding, fetching, lenient
from penstock.runtime.kafka.pacing import pace
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.kafka.sending import PromptSender
from penstock.runtime.telemetry import LogEvent, logger

lenient.install()
fetching.install()
encoding.install()

RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 5.0
CLOSE_SECONDS = 5.0
FETCH_WAIT_MS = 500
"""How long the broker holds an empty fetch. A drained partition waits for the fetch of the others to return, so
longer is not cheaper for everybody."""
LOOK_MS = 5_000
"""How long a fetcher that was told nothing waits before it looks what there is to do. It is told of everything: a look
five times a second, as aiokafka has it, is half of what an idle consumer costs."""


class Batch(Protocol):
    """Records of one partition on their way."""

    def append(
        self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> object | None:
        """None where the batch is full; the first record is always taken."""


class Producer(Protocol):
    """An idempotent producer."""

    async def start(self) -> None: ...
    async def partitions_for(self, topic: str) -> set[int]: ...
    def create_batch(self) -> Batch: ...
    def submit(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """Take a batch; resolves when it is acknowledged. Cancel it to give up on it: then the producer must end."""

    def depart(self) -> None:
        """Send what was submitted, all of it that can share a request."""

    async def close(self, flush_seconds: float) -> None:
        """End it: wait that long for what is on its way, then fail the rest."""


class Rebalanced(Protocol):
    """Who is told about a consumer's partitions."""

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None: ...
    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None: ...


class Consumer(Protocol):
    """A member of a consumer group, or a reader of chosen partitions."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def subscribe(self, topics: Sequence[str], *, listener: Any) -> None: ...
    def assign(self, partitions: Sequence[TopicPartition]) -> None: ...
    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Received]]: ...
    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    async def seek_to_beginning(self, *partitions: TopicPartition) -> bool: ...
    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    async def offsets_at(self, partitions: Sequence[TopicPartition], at_ms: int) -> Mapping[TopicPartition, int]:
        """The first offsets written at that time or later; a partition that has none is absent."""

    def assignment(self) -> set[TopicPartition]: ...
    async def learn_partitions(self, topic: str) -> set[int]:
        """The partition numbers of a topic; empty where there is none."""

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end of the partition as the last fetch saw it; None where it is not known or not ours."""

    def fetched_to(self, partition: TopicPartition) -> int | None:
        """The next offset getmany hands out; None where it is not known or not ours."""


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How a consumer belongs to its group."""

    group_id: str | None
    rebalance_seconds: float = 20.0
    """How long the group waits in a rebalance for a member that drains."""
    session_seconds: float = 10.0
    heartbeat_seconds: float = 1.0
    poll_seconds_max: float = 300.0
    """The client leaves the group when it was not polled for so long."""
    fetch_wait_ms: int = FETCH_WAIT_MS


class Broker(Protocol):
    """Where producers and consumers come from."""

    @property
    def name(self) -> str:
        """How log lines call it."""

    def producer(self, *, compression: str | None, batch_bytes_max: int) -> Producer: ...
    def consumer(self, settings: GroupSettings) -> Consumer: ...


class KafkaBroker:
    """Real Kafka. `bootstrap_servers` is a list separated by commas."""

    def __init__(self, bootstrap_servers: str, *, client_id: str = "penstock") -> None:
        self._servers = [server.strip() for server in bootstrap_servers.split(",") if server.strip()]
        self._client_id = client_id

    @property
    def name(self) -> str:
        """The bootstrap servers."""
        return ",".join(self._servers)

    def producer(self, *, compression: str | None, batch_bytes_max: int) -> Producer:
        """Acknowledged by all in-sync replicas, idempotent."""
        return _Producer(
            bootstrap_servers=self._servers,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            compression_type=compression,
            max_batch_size=batch_bytes_max,
        )

    def consumer(self, settings: GroupSettings) -> Consumer:
        """Never commits by itself; starts at the earliest record where nothing was committed."""
        return _Consumer(
            bootstrap_servers=self._servers,
            client_id=self._client_id,
            group_id=settings.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            rebalance_timeout_ms=int(settings.rebalance_seconds * 1000),
            session_timeout_ms=int(settings.session_seconds * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_seconds * 1000),
            max_poll_interval_ms=int(settings.poll_seconds_max * 1000),
            fetch_max_wait_ms=settings.fetch_wait_ms,
            fetch_min_bytes=1,
            consumer_timeout_ms=LOOK_MS,
        )


class _Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    _sender: Any

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._sender = PromptSender(self._sender)

    async def start(self) -> None:
        pace(self.client)
        await super().start()

    def submit(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """What aiokafka's send_batch does, at once where there is nothing to wait for."""
        place = TopicPartition(topic, partition)
        accumulator = self._message_accumulator
        if (
            accumulator._closed
            or accumulator._exception is not None
            or place in accumulator._batches
            or self.client.cluster.leader_for_partition(place) is None
        ):
            return asyncio.ensure_future(self._send_patiently(batch, topic, partition))
        sent: asyncio.Future[Any] = accumulator._append_batch(batch, place).future
        return sent

    def depart(self) -> None:
        self._sender.start_ready()

    async def _send_patiently(self, batch: Any, topic: str, partition: int) -> None:
        await (await self.send_batch(batch, topic, partition=partition))

    async def close(self, flush_seconds: float) -> None:
        """stop() alone waits for ever where the broker is away, because idempotent batches never expire."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(flush_seconds):
                await self.flush()
        self._message_accumulator.fail_all(KafkaError("the producer was closed"))
        with contextlib.suppress(TimeoutError, KafkaError, KeyError, AssertionError):
            # A batch failed above may still be in a request; its bookkeeping then trips over that.
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.stop()
        self._closed = True
        await self.client.close()


class _Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
    async def start(self) -> None:
        pace(self._client)
        await super().start()

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = await super().end_offsets(list(partitions))
        return ends

    async def offsets_at(self, partitions: Sequence[TopicPartition], at_ms: int) -> Mapping[TopicPartition, int]:
        found = await super().offsets_for_times(dict.fromkeys(partitions, at_ms))
        return {each: place.offset for each, place in found.items() if place is not None}

    async def learn_partitions(self, topic: str) -> set[int]:
        cluster = await self._client.fetch_all_metadata()
        return set(cluster.partitions_for_topic(topic) or ())

    def subscribe(self, topics: Sequence[str], *, listener: Any) -> None:
        super().subscribe(list(topics), listener=listener)

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        super().assign(list(partitions))

    def highwater(self, partition: TopicPartition) -> int | None:
        state = self._state(partition)
        return None if state is None else state.highwater

    def fetched_to(self, partition: TopicPartition) -> int | None:
        state = self._state(partition)
        return state.position if state is not None and state.has_valid_position else None

    def _state(self, partition: TopicPartition) -> Any:
        # Read by the metrics thread too: one reference each, no assertion that the partition is still ours.
        subscription = self._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        return None if assignment is None else assignment.state_value(partition)


T = TypeVar("T")


async def connect(make: Callable[[], T], start: Callable[[T], Awaitable[None]], broker: str, stop: asyncio.Event) -> T:
    """Make and start a client; waits with back-off while the broker is away. Raises Unavailable when stopped."""
    delay = RETRY_SECONDS_MIN
    while not stop.is_set():
        client = make()
        try:
            await start(client)
        except (KafkaError, OSError, TimeoutError) as error:
            logger("kafka").warning(
                LogEvent.BROKER_AWAITED, bootstrap_servers=broker, error=repr(error), again_in_seconds=delay
            )
            await _end(client)
        except BaseException:
            await _end(client)
            raise
        else:
            return client
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stop.wait()
        delay = min(delay * 2, RETRY_SECONDS_MAX)
    raise Unavailable(f"stopped before {broker} answered")


async def _end(client: Any) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await client.stop()

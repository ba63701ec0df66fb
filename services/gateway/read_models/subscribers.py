"""Owns the way from the topics to the tables: a FastStream batch subscriber, whose batches are written or awaited.

FastStream's defaults lose records in three ways, each closed here: its parser drops a batch with a header that is not
UTF-8 (ours reads no header), its acknowledgement commits after an exception (ours is by hand, after the write), and its
groups begin at the latest record and make missing topics (ours does not). One subscriber for all topics: a batch is one
transaction, and an idle gateway wakes for one consumer only.
"""

import asyncio
import logging
import operator
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from typing import Any, Final

import asyncpg
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage
from faststream.specification.asyncapi import AsyncAPI

from penstock.contracts.topics import Service, consumed_by
from penstock.runtime.errors import NotAcknowledged, Unavailable
from penstock.runtime.kafka.broker import LOOK_MS
from penstock.runtime.kafka.pacing import pace
from penstock.runtime.kafka.records import Received, TopicPartition, dead_letter
from penstock.runtime.postgres import AWAY
from penstock.runtime.telemetry import logger
from services.gateway.read_models import store
from services.gateway.read_models.fold import FOLDED, Batch, fold
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Instruments, LogEvent

GROUP: Final = "penstock.gateway"
BATCH_TIMEOUT_MS: Final = 200
"""How long FastStream sleeps after a poll that found nothing. It would have a poll wait no longer than that."""
POLL_MS: Final = 10_000
"""How long a poll waits here: who sleeps is not woken by what comes."""
DENSE_RECORDS: Final = 250
"""A batch of so many is one of a dense stream."""
DENSE_TIMES: Final = 4
COMMIT_SECONDS: Final = 1.0
WAIT_SECONDS_FIRST: Final = 0.1
WAIT_SECONDS_MAX: Final = 5.0

Written = Callable[[Batch], None]
"""Told of each batch after its commit."""


class Subscribers:
    """What one gateway reads, and the broker connection it reads with."""

    def __init__(
        self,
        settings: GatewaySettings,
        pool: asyncpg.Pool,
        publish: Callable[[Sequence[Any]], Awaitable[None]],
        written: Written,
        instruments: Instruments,
        *,
        group: str = GROUP,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._publish = publish
        self._written = written
        self._instruments = instruments
        self._group = group
        self._log = logger("read_models")
        self._finished: dict[TopicPartition, int] = {}
        self._dirty = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self.broker = KafkaBroker(
            settings.kafka_bootstrap_servers.split(","),
            acks="all",
            allow_auto_create_topics=False,
            apply_types=False,
            graceful_timeout=settings.drain_seconds,
            client_id=f"gateway-{settings.instance}",
            logger=logging.getLogger("penstock.gateway.faststream"),
        )
        self._subscriber: Any = self._subscribe()

    async def start(self, stop: asyncio.Event) -> None:
        """Connects, and waits for a broker that is away."""
        wait = WAIT_SECONDS_FIRST
        while not stop.is_set():
            try:
                await self.broker.start()
            except KafkaError as error:
                self._log.warning(LogEvent.BROKER_AWAITED, reason=str(error))
                await self.broker.stop()
                await asyncio.sleep(wait)
                wait = min(wait * 2, WAIT_SECONDS_MAX)
            else:
                consumer = self._subscriber.consumer
                pace(consumer._client)
                consumer.getmany = _patiently(consumer.getmany)
                self._committer = asyncio.create_task(self._commit_for_ever())
                return

    async def stop(self) -> None:
        """Ends the batch in hand and leaves the group."""
        if self._committer is not None:
            self._committer.cancel()
        await self._commit()
        await self.broker.stop()

    def asyncapi(self) -> dict[str, Any]:
        """What the gateway reads, as an AsyncAPI 3.0 document."""
        document: dict[str, Any] = AsyncAPI(self.broker, title="Penstock gateway").to_specification().to_jsonable()
        return document

    def _subscribe(self) -> Any:
        consumed = [topic for topic in consumed_by(Service.GATEWAY) if topic.name in FOLDED]
        subscriber = self.broker.subscriber(
            *(topic.name for topic in consumed),
            group_id=self._group,
            batch=True,
            max_records=self._settings.gateway_batch_records_max,
            batch_timeout_ms=BATCH_TIMEOUT_MS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            partition_assignment_strategy=(RangePartitionAssignor,),
            rebalance_timeout_ms=round(self._settings.drain_seconds * 1000),
            max_partition_fetch_bytes=4 * 1024 * 1024,
            consumer_timeout_ms=LOOK_MS,
            no_reply=True,
            title="read models",
            description="Runs, their progress and end, what they used, published definitions",
        )

        async def parse(records: tuple[Received, ...], _original: Any = None) -> KafkaMessage:
            return KafkaMessage(raw_message=records, body=b"", headers={}, consumer=FAKE_CONSUMER)

        async def decode(message: KafkaMessage, _original: Any = None) -> Any:
            return message.raw_message

        async def handle(records: Any) -> None:
            await self.write(records)
            self._finish(records)
            await asyncio.sleep(pause_seconds(len(records), self._settings))

        # For the AsyncAPI document only: types are not applied, the handler gets the records as they came.
        models: Any = reduce(operator.or_, (topic.message for topic in consumed))
        handle.__annotations__["records"] = list[models]
        subscriber(handle, parser=parse, decoder=decode)
        return subscriber

    async def write(self, records: Sequence[Received]) -> None:
        """Writes the records or dead-letters them, each once; waits while Postgres or Kafka is away."""
        with self._instruments.batch_seconds.time():
            batch, refused = fold(records)
            for each in refused:
                await self._refuse(each.record, each.reason)
            try:
                await self._until_possible(lambda: store.write(self._pool, batch, self._settings.instance))
            except store.REFUSED_BY_DATABASE as error:
                await self._write_apart(records, {id(each.record) for each in refused}, error)
                return
        for topic, count in Counter([record.topic for record in records]).items():
            self._instruments.records.labels(topic, "written").inc(count)
        self._written(batch)

    async def _write_apart(self, records: Sequence[Received], refused: set[int], error: Exception) -> None:
        """The database refuses something in these records: halve them until it is alone."""
        left = [record for record in records if id(record) not in refused]
        if len(left) == 1:
            await self._refuse(left[0], f"refused by the database: {error}")
            return
        middle = len(left) // 2
        await self.write(left[:middle])
        await self.write(left[middle:])

    async def _refuse(self, record: Received, reason: str) -> None:
        self._log.warning(
            LogEvent.RECORD_REFUSED,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        self._instruments.records.labels(record.topic, "refused").inc()
        letter = dead_letter(record, reason, None, self._group)
        await self._until_possible(lambda: self._publish([letter]))

    async def _until_possible(self, attempt: Callable[[], Awaitable[None]]) -> None:
        wait = WAIT_SECONDS_FIRST
        while True:
            try:
                await attempt()
            except store.REFUSED_BY_DATABASE:
                raise
            except (asyncpg.PostgresError, *AWAY, Unavailable, NotAcknowledged) as error:
                self._log.warning(LogEvent.BATCH_AWAITED, reason=repr(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, WAIT_SECONDS_MAX)
            else:
                return

    def _finish(self, records: Sequence[Received]) -> None:
        newest = {(record.topic, record.partition): record.offset for record in records}
        for (topic, partition), offset in newest.items():
            self._finished[TopicPartition(topic, partition)] = offset + 1
        self._dirty.set()

    async def _commit_for_ever(self) -> None:
        """Writes are idempotent, so that a second's records may come again; a commit per batch buys nothing."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(COMMIT_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        consumer = self._subscriber.consumer
        owned = set() if consumer is None else consumer.assignment()
        offsets = {partition: self._finished[partition] for partition in self._finished.keys() & owned}
        self._finished.clear()
        if not offsets:
            return
        try:
            await consumer.commit(offsets)
        except (KafkaError, ValueError) as error:
            self._log.info(LogEvent.COMMIT_SKIPPED, group=self._group, reason=repr(error))


def pause_seconds(records: int, settings: GatewaySettings) -> float:
    """What the batch after one of so many records waits for company: a transaction costs much, a record in it little.

    Nobody watches faster than the first pause. Where records come densely it is longer: a record of 1,200 costs a
    fifth less than one of 400. After a full batch there is none, for more is there already.
    """
    if records >= settings.gateway_batch_records_max:
        return 0.0
    return settings.gateway_gather_ms / 1000 * (DENSE_TIMES if records >= DENSE_RECORDS else 1)


def _patiently(getmany: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def wait(*, timeout_ms: int, max_records: int) -> Any:  # noqa: ARG001  # as FastStream calls it
        return await getmany(timeout_ms=POLL_MS, max_records=max_records)

    return wait

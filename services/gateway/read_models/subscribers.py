"""Owns the way from the topics to the tables: FastStream batch subscribers, whose batches are written or awaited.

FastStream's defaults lose records in three ways, each closed here: its parser drops a batch with a header that is not
UTF-8 (ours reads no header), its acknowledgement commits after an exception (ours is by hand, after the write), and its
groups begin at the latest record and make missing topics (ours do not).
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

from penstock.contracts import topics
from penstock.contracts.topics import Service
from penstock.runtime.errors import Unavailable
from penstock.runtime.kafka.records import Received, TopicPartition, dead_letter
from penstock.runtime.telemetry import logger
from services.gateway.read_models import store
from services.gateway.read_models.fold import Batch, fold
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Instruments, LogEvent

GROUP_RUNS: Final = "penstock.gateway.runs"
GROUP_WORKFLOWS: Final = "penstock.gateway.workflows"
BATCH_TIMEOUT_MS: Final = 100
COMMIT_SECONDS: Final = 1.0
WAIT_SECONDS_FIRST: Final = 0.1
WAIT_SECONDS_MAX: Final = 5.0

Written = Callable[[Batch], None]
"""Told of each batch after its commit."""


class Subscribers:
    """The subscribers of one gateway and the broker connection they share."""

    def __init__(
        self,
        settings: GatewaySettings,
        pool: asyncpg.Pool,
        publish: Callable[[Sequence[Any]], Awaitable[None]],
        written: Written,
        instruments: Instruments,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._publish = publish
        self._written = written
        self._instruments = instruments
        self._log = logger("read_models")
        self._finished: dict[str, dict[TopicPartition, int]] = {}
        self._dirty = asyncio.Event()
        self._committer: asyncio.Task[None] | None = None
        self._consumers: dict[str, Callable[[], Any]] = {}
        self.broker = KafkaBroker(
            settings.kafka_bootstrap_servers.split(","),
            acks="all",
            allow_auto_create_topics=False,
            apply_types=False,
            graceful_timeout=settings.drain_seconds,
            client_id=f"gateway-{settings.instance}",
            logger=logging.getLogger("penstock.gateway.faststream"),
        )
        self._subscribe(
            GROUP_RUNS,
            "runs",
            "Runs, their progress and end, and what they used",
            topics.RUN_PROGRESSED,
            topics.RUN_FINISHED,
            topics.USAGE_RECORDED,
        )
        self._subscribe(GROUP_WORKFLOWS, "workflows", "Published definitions", topics.WORKFLOW_PUBLISHED)

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
                self._committer = asyncio.create_task(self._commit_for_ever())
                return

    async def stop(self) -> None:
        """Ends the batch in hand and leaves the groups."""
        if self._committer is not None:
            self._committer.cancel()
        await self._commit()
        await self.broker.stop()

    def asyncapi(self) -> dict[str, Any]:
        """What the subscribers read, as an AsyncAPI 3.0 document."""
        document: dict[str, Any] = AsyncAPI(self.broker, title="Penstock gateway").to_specification().to_jsonable()
        return document

    def _subscribe(self, group: str, title: str, description: str, *subscribed: topics.Topic[Any]) -> None:
        for topic in subscribed:
            if Service.GATEWAY not in topic.consumers:
                raise ValueError(f"the registry does not let the gateway read {topic.name}")
        subscriber = self.broker.subscriber(
            *(topic.name for topic in subscribed),
            group_id=group,
            batch=True,
            max_records=self._settings.gateway_batch_records_max,
            batch_timeout_ms=BATCH_TIMEOUT_MS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            partition_assignment_strategy=(RangePartitionAssignor,),
            rebalance_timeout_ms=round(self._settings.drain_seconds * 1000),
            max_partition_fetch_bytes=4 * 1024 * 1024,
            no_reply=True,
            title=title,
            description=description,
        )

        async def parse(records: tuple[Received, ...], _original: Any = None) -> KafkaMessage:
            return KafkaMessage(raw_message=records, body=b"", headers={}, consumer=FAKE_CONSUMER)

        async def decode(message: KafkaMessage, _original: Any = None) -> Any:
            return message.raw_message

        async def handle(records: Any) -> None:
            await self.write(records, group)
            self._finish(records, group)
            if len(records) < self._settings.gateway_batch_records_max // 4:
                # One transaction for many records costs what it costs for one; nobody watches faster than this.
                await asyncio.sleep(self._settings.gateway_gather_ms / 1000)

        # For the AsyncAPI document only: types are not applied, the handler gets the records as they came.
        models: Any = reduce(operator.or_, (topic.message for topic in subscribed))
        handle.__annotations__["records"] = list[models]
        subscriber(handle, parser=parse, decoder=decode)
        self._consumers[group] = lambda: subscriber.consumer

    def _finish(self, records: Sequence[Received], group: str) -> None:
        newest = {(record.topic, record.partition): record.offset for record in records}
        finished = self._finished.setdefault(group, {})
        for (topic, partition), offset in newest.items():
            finished[TopicPartition(topic, partition)] = offset + 1
        self._dirty.set()

    async def write(self, records: Sequence[Received], group: str) -> None:
        """Writes the records or dead-letters them, each once; waits while Postgres or Kafka is away."""
        with self._instruments.batch_seconds.time():
            batch, refused = fold(records)
            for each in refused:
                await self._refuse(each.record, each.reason, group)
            try:
                await self._until_possible(lambda: store.write(self._pool, batch))
            except store.REFUSED_BY_DATABASE as error:
                await self._write_apart(records, error, group)
                return
        for topic, count in Counter([record.topic for record in records]).items():
            self._instruments.records.labels(topic, "written").inc(count)
        self._written(batch)

    async def _write_apart(self, records: Sequence[Received], error: Exception, group: str) -> None:
        """The database refuses something in these records: halve them until it is alone."""
        if len(records) == 1:
            await self._refuse(records[0], f"refused by the database: {error}", group)
            return
        middle = len(records) // 2
        await self.write(records[:middle], group)
        await self.write(records[middle:], group)

    async def _refuse(self, record: Received, reason: str, group: str) -> None:
        self._log.warning(
            LogEvent.RECORD_REFUSED,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        self._instruments.records.labels(record.topic, "refused").inc()
        letter = dead_letter(record, reason, None, group)
        await self._until_possible(lambda: self._publish([letter]))

    async def _until_possible(self, attempt: Callable[[], Awaitable[None]]) -> None:
        wait = WAIT_SECONDS_FIRST
        while True:
            try:
                await attempt()
            except store.REFUSED_BY_DATABASE:
                raise
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, Unavailable) as error:
                self._log.warning(LogEvent.BATCH_AWAITED, reason=repr(error))
                await asyncio.sleep(wait)
                wait = min(wait * 2, WAIT_SECONDS_MAX)
            else:
                return

    async def _commit_for_ever(self) -> None:
        """Writes are idempotent, so that a second's records may come again; a commit per batch buys nothing."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await asyncio.sleep(COMMIT_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        for group, finished in self._finished.items():
            consumer = self._consumers[group]()
            owned = set() if consumer is None else consumer.assignment()
            offsets = {partition: finished[partition] for partition in finished.keys() & owned}
            finished.clear()
            if not offsets:
                continue
            try:
                await consumer.commit(offsets)
            except (KafkaError, ValueError) as error:
                self._log.info(LogEvent.COMMIT_SKIPPED, group=group, reason=repr(error))

"""Owns the reader of a broadcast topic: every instance reads its one partition whole, in order, from the beginning."""

import asyncio
from collections.abc import Awaitable, Callable

from aiokafka.errors import KafkaError

from penstock.runtime.errors import Unavailable
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.telemetry import LogEvent, logger

POLL_MS = 1_000
PATIENT_WAIT_MS = 20_000
"""How long the broker holds an empty fetch for a reader that nobody asks how far it is. News are answered at once."""
AGAIN_SECONDS = 1.0
CATCH_UP_SECONDS_MAX = 10.0


class BroadcastReader:
    """Calls `handle` for each record. `handle` must not raise for what a sender can do wrong."""

    def __init__(self, broker: Broker, topic: str, handle: Callable[[Received], Awaitable[None]]) -> None:
        self._broker = broker
        self._partition = TopicPartition(topic, 0)
        self._handle = handle
        self._position = 0
        self._moved = asyncio.Condition()
        self._consumer: Consumer | None = None

    async def run(self, stop: asyncio.Event, *, caught_up: Callable[[], None] | None = None) -> None:
        """Read until `stop` is set; `caught_up` is called once what was there at the start has been handled.

        Left out, nobody waits for that: then the reader must not be asked to `catch_up`, and costs less when idle.
        """
        settings = GroupSettings(group_id=None)
        if caught_up is None:
            settings = GroupSettings(group_id=None, fetch_wait_ms=PATIENT_WAIT_MS)
        consumer = await connect(lambda: self._broker.consumer(settings), _start, self._broker.name, stop)
        try:
            consumer.assign([self._partition])
            await consumer.seek_to_beginning(self._partition)
            if caught_up is None:
                while not stop.is_set():
                    await self._poll(consumer)
                return
            self._consumer = consumer
            first = asyncio.ensure_future(self._announce(caught_up))
            try:
                while not stop.is_set():
                    await self._poll(consumer)
                if first.done():
                    first.result()
            finally:
                first.cancel()
        finally:
            self._consumer = None
            await consumer.stop()

    async def catch_up(self) -> None:
        """Wait until everything published so far has been handled.

        Raises Unavailable while the broker is away, and after CATCH_UP_SECONDS_MAX: the caller asks again.
        """
        if self._consumer is None:
            raise Unavailable(f"{self._partition.topic} is not being read yet")
        try:
            end = (await self._consumer.end_offsets([self._partition]))[self._partition]
        except (KafkaError, OSError) as error:
            raise Unavailable(f"{self._partition.topic}: {error!r}") from error
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS_MAX), self._moved:
                await self._moved.wait_for(lambda: self._position >= end)
        except TimeoutError as error:
            raise Unavailable(f"{self._partition.topic} was read to {self._position}, it ends at {end}") from error

    async def _announce(self, caught_up: Callable[[], None]) -> None:
        while True:
            try:
                await self.catch_up()
            except Unavailable as error:
                logger("kafka").warning(LogEvent.FETCH_FAILED, topic=self._partition.topic, error=str(error))
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                caught_up()
                return

    async def _poll(self, consumer: Consumer) -> None:
        try:
            fetched = await consumer.getmany(self._partition, timeout_ms=POLL_MS)
        except KafkaError as error:
            logger("kafka").warning(LogEvent.FETCH_FAILED, topic=self._partition.topic, error=repr(error))
            await asyncio.sleep(AGAIN_SECONDS)
            return
        for record in fetched.get(self._partition, ()):
            await self._handle(record)
            await self._reached(record.offset + 1)
        # Compaction can remove what stood last: the end is then reached without a record that says so.
        await self._reached(consumer.fetched_to(self._partition) or 0)

    async def _reached(self, position: int) -> None:
        if position > self._position:
            async with self._moved:
                self._position = position
                self._moved.notify_all()


async def _start(consumer: Consumer) -> None:
    await consumer.start()

"""Owns reading a topic whole: every instance reads all partitions from the earliest record, without a group."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from aiokafka.errors import KafkaError

from penstock.contracts.topics import Service
from penstock.runtime.errors import Unavailable
from penstock.runtime.health import Health
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.kafka.subscription import check_subscription
from penstock.runtime.telemetry import LogEvent, logger

POLL_MS = 60_000
RETRY_SECONDS = 1.0

Listener = Callable[[Sequence[Received]], None]


class BroadcastReader:
    """Calls `heard` with every batch, synchronously, so that nothing overtakes; `caught_up` is set once."""

    def __init__(
        self, service: Service, topic: str, heard: Listener, broker: Broker, *, health: Health | None = None
    ) -> None:
        check_subscription(service, [topic])
        self._topic = topic
        self._heard = heard
        self._broker = broker
        self._health = health
        self._log = logger("broadcast").bind(topic=topic)
        self.caught_up = asyncio.Event()
        """Everything that was in the topic when the reader started has been heard."""

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        self._ready(False, "reading from the start")
        try:
            consumer = await connect(
                lambda: self._broker.consumer(GroupSettings(None)), self._start, self._broker.name, stop
            )
        except Unavailable:
            return
        reading = asyncio.ensure_future(self._read(consumer))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            await consumer.stop()

    async def _start(self, consumer: Consumer) -> None:
        await consumer.start()
        numbers = await self._numbers(consumer)
        consumer.assign([TopicPartition(self._topic, number) for number in sorted(numbers)])

    async def _numbers(self, consumer: Consumer) -> set[int]:
        numbers = await consumer.learn_partitions(self._topic)
        if not numbers:
            raise KafkaError(f"there is no topic {self._topic}")
        return numbers

    async def _read(self, consumer: Consumer) -> None:
        partitions = sorted(consumer.assignment())
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        self._check_caught_up(consumer, ends)
        while True:
            try:
                fetched = await consumer.getmany(*partitions, timeout_ms=POLL_MS)
            except KafkaError as error:
                self._log.warning(LogEvent.FETCH_FAILED, error=repr(error))
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for records in fetched.values():
                self._heard(records)
            if not self.caught_up.is_set():
                self._check_caught_up(consumer, ends)

    def _check_caught_up(self, consumer: Consumer, ends: Mapping[TopicPartition, int]) -> None:
        if all((consumer.fetched_to(partition) or 0) >= end for partition, end in ends.items()):
            self.caught_up.set()
            self._ready(True, "caught up")

    def _ready(self, ready: bool, detail: str) -> None:
        if self._health is not None:
            self._health.set_ready(f"topic {self._topic}", ready, detail)

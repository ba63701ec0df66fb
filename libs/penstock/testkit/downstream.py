"""Owns the systems that listen to Penstock as tests play them: everything said on chosen topics, from the beginning."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from penstock.contracts.messages import RunFinished
from penstock.contracts.topics import RUN_FINISHED, Deployment, dead_letter_topic
from penstock.runtime.kafka.admin import plan

WAIT_SECONDS: Final = 120.0
POLL_MS: Final = 500
SHOWN_MAX: Final = 5


class Downstream:
    """Reads whole topics into memory. Waits for what a test expects, never for time."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        self._consumer: Final = consumer
        self._partitions: Final = list(partitions)
        self._news: Final = asyncio.Condition()
        self._positions: Final[dict[TopicPartition, int]] = {}
        self._heard: Final[dict[str, list[ConsumerRecord]]] = defaultdict(list)
        self._ends: Final[dict[str, list[ConsumerRecord]]] = defaultdict(list)
        self._reader: Final = asyncio.create_task(self._read())

    def heard(self, topic: str) -> list[ConsumerRecord]:
        """All records of a topic so far."""
        return self._heard[topic]

    def ends(self, run_id: str) -> list[ConsumerRecord]:
        """All records so far that say that a run ended; a resent one counts again, with the same id."""
        return self._ends.get(run_id, [])

    async def until(self, holds: Callable[[], bool], missing: Callable[[], str], seconds: float = WAIT_SECONDS) -> None:
        """Return when the question is answered with yes, asked again with every record; else say what is missing."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: self._reader.done() or holds())
        except TimeoutError:
            raise AssertionError(f"not within {seconds:g} s: {missing()}") from None
        if self._reader.done():
            self._reader.result()

    async def finished(self, run_ids: Collection[str], seconds: float = WAIT_SECONDS) -> dict[str, RunFinished]:
        """The end of each of these runs; waits for all."""

        def open_runs() -> list[str]:
            return [run_id for run_id in run_ids if run_id not in self._ends]

        def missing() -> str:
            left = open_runs()
            return f"{len(left)} of {len(run_ids)} runs have not ended, for example {left[:SHOWN_MAX]}"

        await self.until(lambda: not open_runs(), missing, seconds)
        return {run_id: RunFinished.model_validate_json(self._ends[run_id][-1].value) for run_id in run_ids}

    async def hear(
        self,
        topic: str,
        count: int,
        containing: bytes = b"",
        *,
        key: bytes | None = None,
        seconds: float = WAIT_SECONDS,
    ) -> list[ConsumerRecord]:
        """At least `count` records of a topic whose value holds those bytes (and that have that key)."""

        def found() -> list[ConsumerRecord]:
            return [
                record
                for record in self._heard[topic]
                if containing in (record.value or b"") and (key is None or record.key == key)
            ]

        await self.until(
            lambda: len(found()) >= count, lambda: f"{topic}: {len(found())} of {count} {containing!r} {key!r}", seconds
        )
        return found()

    async def dead_letters(self, topic: str, count: int, *, key: bytes | None = None) -> list[ConsumerRecord]:
        """At least `count` dead letters of a topic."""
        return await self.hear(dead_letter_topic(topic), count, key=key)

    async def caught_up(self, seconds: float = WAIT_SECONDS) -> None:
        """Everything that is on the topics now has been read."""
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(self._partitions)

        def behind() -> list[TopicPartition]:
            return [place for place, end in ends.items() if self._positions.get(place, 0) < end]

        await self.until(lambda: not behind(), lambda: f"still to be read: {behind()}", seconds)

    async def _read(self) -> None:
        while True:
            try:
                fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
            except KafkaError:  # the broker is away, as some tests want it
                await asyncio.sleep(POLL_MS / 1000)
                continue
            for place, records in fetched.items():
                self._heard[place.topic].extend(records)
                self._positions[place] = records[-1].offset + 1
                if place.topic == RUN_FINISHED.name:
                    self._note_ends(records)
            if fetched:
                async with self._news:
                    self._news.notify_all()

    def _note_ends(self, records: list[ConsumerRecord]) -> None:
        for record in records:
            try:
                end = RunFinished.model_validate_json(record.value or b"")
            except ValidationError:  # poison that a test put there
                continue
            self._ends[end.run_id].append(record)

    async def stop(self) -> None:
        """Stop reading."""
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._consumer.stop()


def headers_of(record: ConsumerRecord) -> dict[str, Any]:
    """A record's headers as text, where they are."""
    return {name: value.decode(errors="replace") if value is not None else None for name, value in record.headers}


@asynccontextmanager
async def downstream(bootstrap_servers: str, deployment: Deployment) -> AsyncIterator[Downstream]:
    """Listens to all topics of a deployment, dead letters too, from their beginning."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, fetch_max_wait_ms=100, enable_auto_commit=False)
    await consumer.start()
    places = [TopicPartition(each.name, number) for each in plan(deployment) for number in range(each.partitions)]
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    listener = Downstream(consumer, places)
    try:
        yield listener
    finally:
        await listener.stop()

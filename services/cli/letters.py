"""Owns dead letters: reading them from Kafka, and sending them back to where they came from, byte for byte.

What was redriven is marked by a consumer group's committed offset per dead letter partition, in the order of the
letters; a letter that is sent back also carries REDRIVEN_HEADER, so that who dead-letters it again can tell.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from penstock.contracts.envelope import Headers
from penstock.contracts.topics import DEAD_LETTER_PREFIX
from penstock.runtime.kafka.broker import Consumer, GroupSettings, KafkaBroker
from penstock.runtime.kafka.records import ERROR_PREFIX, Received, TopicPartition

MARK_GROUP: Final = "penstock.cli.redrive"
REDRIVEN_HEADER: Final = "__dlq.redriven.from"
BATCH_BYTES_MAX: Final = 900_000
POLL_MS: Final = 1_000
ANSWER_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Box:
    """One partition of a dead letter topic: letters from `first` up to `end`, redriven up to `mark`."""

    topic: str
    partition: int
    first: int
    end: int
    mark: int

    @property
    def letters(self) -> int:
        """How many there are (an upper bound where a log was compacted or cut)."""
        return self.end - self.first

    @property
    def waiting(self) -> int:
        """How many were not redriven."""
        return self.end - max(self.first, self.mark)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: the record as it was, and why it is here."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    errors: dict[str, str]

    @property
    def origin(self) -> str:
        """The topic it came from."""
        return self.errors.get("topic") or self.topic.removeprefix(DEAD_LETTER_PREFIX)


def letter_of(record: Received) -> Letter:
    """What a record of a dead letter topic says."""
    errors = {
        name.removeprefix(ERROR_PREFIX): value.decode(errors="replace")
        for name, value in record.headers
        if name.startswith(ERROR_PREFIX)
    }
    headers = [(name, value) for name, value in record.headers if not name.startswith(ERROR_PREFIX)]
    return Letter(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        headers,
        errors,
    )


async def boxes(bootstrap: str, topic: str | None = None) -> list[Box]:
    """The dead letter topics that hold something."""
    async with asyncio.timeout(ANSWER_SECONDS), _consumer(bootstrap, None) as consumer:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap.split(","))
        await admin.start()
        try:
            names = await admin.list_topics()
            marks = await admin.list_consumer_group_offsets(MARK_GROUP)
        finally:
            await admin.close()
        wanted = {name for name in names if name.startswith(DEAD_LETTER_PREFIX)}
        if topic is not None:
            wanted &= {topic, DEAD_LETTER_PREFIX + topic}
        partitions = [
            TopicPartition(name, number)
            for name in sorted(wanted)
            for number in sorted(await consumer.learn_partitions(name))
        ]
        if not partitions:
            return []
        raw: Any = consumer  # the runtime's protocol has no word for the beginning; the client does
        firsts, ends = await raw.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        return [
            Box(each.topic, each.partition, firsts[each], ends[each], marks[each].offset if each in marks else 0)
            for each in partitions
            if ends[each] > firsts[each]
        ]


async def letters(bootstrap: str, box: Box, start: int, limit: int) -> list[Letter]:
    """Letters of a box from an offset on."""
    partition = TopicPartition(box.topic, box.partition)
    found: list[Letter] = []
    position = max(start, box.first)
    async with _consumer(bootstrap, None) as consumer:
        consumer.assign([partition])
        consumer.seek(partition, position)
        while position < box.end and len(found) < limit:
            async with asyncio.timeout(ANSWER_SECONDS):
                fetched = await consumer.getmany(partition, timeout_ms=POLL_MS, max_records=limit - len(found))
            for record in fetched.get(partition, ()):
                position = record.offset + 1
                if record.offset < box.end:
                    found.append(letter_of(record))
            if not fetched and (consumer.fetched_to(partition) or 0) >= box.end:
                break
    return found


async def send_back(bootstrap: str, chosen: Sequence[Letter]) -> None:
    """Each to the topic and partition that it came from; returns when the broker has them all."""
    producer = KafkaBroker(bootstrap).producer(compression="lz4", batch_bytes_max=BATCH_BYTES_MAX)
    async with asyncio.timeout(ANSWER_SECONDS):
        await producer.start()
    try:
        for letter in chosen:
            partitions = await producer.partitions_for(letter.origin)
            number = letter.errors.get("partition", "0")
            partition = int(number) if number.isdigit() and int(number) in partitions else min(partitions)
            batch = producer.create_batch()
            mark = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
            headers = [*(each for each in letter.headers if each[0] != REDRIVEN_HEADER), (REDRIVEN_HEADER, mark)]
            batch.append(timestamp=None, key=letter.key, value=letter.value, headers=headers)
            async with asyncio.timeout(ANSWER_SECONDS):
                sent = producer.submit(batch, letter.origin, partition=partition)
                producer.depart()
                await sent
    finally:
        await producer.close(ANSWER_SECONDS)


async def mark(bootstrap: str, box: Box, offset: int) -> None:
    """Everything below the offset was redriven."""
    partition = TopicPartition(box.topic, box.partition)
    async with asyncio.timeout(ANSWER_SECONDS), _consumer(bootstrap, MARK_GROUP) as consumer:
        consumer.assign([partition])
        await consumer.commit({partition: offset})


@asynccontextmanager
async def _consumer(bootstrap: str, group: str | None) -> AsyncIterator[Consumer]:
    consumer = KafkaBroker(bootstrap).consumer(GroupSettings(group))
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


UNREACHABLE: Final = (KafkaError, OSError, TimeoutError)
"""What all of these raise where the broker is away."""

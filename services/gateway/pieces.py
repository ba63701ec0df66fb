"""Owns reading answers while they come: one run's pieces, from an offset on, by a consumer that lives with its watcher.

Nothing is read while nobody watches. The topic holds the pieces for an hour, so a slow watcher needs no buffer here: it
is read on when it asks, and what came meanwhile is put together to larger pieces.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from pydantic import ValidationError

from penstock.contracts.messages import InferenceStreamed
from penstock.contracts.topics import INFERENCE_STREAMED
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings, connect
from penstock.runtime.kafka.records import Received, TopicPartition, partition_of
from penstock.runtime.telemetry import logger
from services.gateway.telemetry import LogEvent

POLL_MS: Final = 1_000
RECORDS_MAX: Final = 200
"""Of one poll, all runs' together."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece lies. As text it is what a watcher comes back with."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Raises ValueError."""
        partition, _, offset = text.partition("-")
        if not (partition.isdecimal() and offset.isdecimal() and len(text) <= 30):
            raise ValueError(f"{text!r} is no place of ours")
        return cls(int(partition), int(offset))


class PieceReader:
    """The pieces of one run."""

    def __init__(self, consumer: Consumer, partition: TopicPartition, run_key: UUID) -> None:
        self._consumer: Final = consumer
        self._partition: Final = partition
        self._key: Final = str(run_key).encode()
        self._open: Final[set[str]] = set()

    @property
    def open(self) -> bool:
        """Whether an answer was begun whose last piece has not come yet."""
        return bool(self._open)

    async def read(self) -> tuple[list[dict[str, Any]], Place | None]:
        """What came within POLL_MS, put together, and the place behind which to go on. Raises KafkaError."""
        fetched = await self._consumer.getmany(self._partition, timeout_ms=POLL_MS, max_records=RECORDS_MAX)
        records = fetched.get(self._partition, ())
        mine = [_piece(record) for record in records if record.key == self._key]
        pieces = [piece for piece in mine if piece is not None]
        for piece in pieces:
            (self._open.discard if piece["final"] else self._open.add)(piece["request_id"])
        if not records:
            return [], None
        return put_together(pieces), Place(self._partition.partition, records[-1].offset)

    async def end(self) -> int:
        """The offset behind the newest record. Raises KafkaError."""
        return (await self._consumer.end_offsets([self._partition]))[self._partition]

    def has_reached(self, offset: int) -> bool:
        """Whether everything before an offset was read."""
        return (self._consumer.fetched_to(self._partition) or 0) >= offset


def _piece(record: Received) -> dict[str, Any] | None:
    """What a record says; None for what is no piece, which a watcher can do nothing about."""
    try:
        InferenceStreamed.model_validate_json(record.value or b"")
    except ValidationError:
        logger("pieces").warning(LogEvent.RECORD_REFUSED, topic=record.topic, offset=record.offset)
        return None
    piece: dict[str, Any] = orjson.loads(record.value or b"")
    return piece


class Pieces:
    """Opens readers. `open` is how many there are."""

    def __init__(self, broker: Broker, stop: asyncio.Event) -> None:
        self._broker: Final = broker
        self._stop: Final = stop
        self.open = 0

    @contextlib.asynccontextmanager
    async def of(self, run_key: UUID, after: Place | None, since_ms: int) -> AsyncIterator[PieceReader]:
        """A run's pieces after a place, or from a time on. Waits while the broker is away; Unavailable when stopped."""
        self.open += 1
        try:
            settings = GroupSettings(group_id=None)
            consumer = await connect(
                lambda: self._broker.consumer(settings), lambda each: each.start(), self._broker.name, self._stop
            )
            try:
                count = len(await consumer.learn_partitions(INFERENCE_STREAMED.name))
                number = partition_of(str(run_key).encode(), max(1, count))
                partition = TopicPartition(INFERENCE_STREAMED.name, number)
                start = await _start(consumer, partition, after, since_ms)
                consumer.assign([partition])
                consumer.seek(partition, start)
                yield PieceReader(consumer, partition, run_key)
            finally:
                await consumer.stop()
        finally:
            self.open -= 1


async def _start(consumer: Consumer, partition: TopicPartition, after: Place | None, since_ms: int) -> int:
    end = (await consumer.end_offsets([partition]))[partition]
    if after is not None and after.partition == partition.partition and after.offset < end:
        return after.offset + 1
    return (await consumer.offsets_at([partition], since_ms)).get(partition, end)


def put_together(pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pieces that follow one another in one answer as one; those of other answers in between are no matter."""
    newest: dict[str, dict[str, Any]] = {}
    merged: list[dict[str, Any]] = []
    for piece in pieces:
        before = newest.get(piece["request_id"])
        if before is not None and piece["sequence"] == before["sequence"] + 1 and not before["final"]:
            start, text = before["from_character"], before["text"] + piece["text"]
            before.update(piece)
            before["from_character"], before["text"] = start, text
        else:
            newest[piece["request_id"]] = made = dict(piece)
            merged.append(made)
    return merged

"""Owns asking the broker how far each group is behind, in records and in seconds: rarely, however often it is asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.runtime.kafka.admin import GroupLag, group_lag
from penstock.runtime.kafka.broker import GroupSettings, KafkaBroker
from penstock.runtime.kafka.records import TopicPartition

FRESH_MS: Final = 2_000
ASK_SECONDS: Final = 10.0
PEEK_SECONDS: Final = 1.0
PEEKED_MAX: Final = 64

Place = tuple[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Lag:
    """One group on one topic. `oldest_ms` is when the oldest record it has not read was written, where known."""

    group: str
    topic: str
    partitions: dict[int, int]
    oldest_ms: int | None = None

    @property
    def total(self) -> int:
        """Records, over all partitions."""
        return sum(self.partitions.values())

    def seconds(self, now_ms: int) -> float | None:
        """How long the oldest unread record has waited; nought where nothing waits, None where it is not known."""
        if not self.total:
            return 0.0
        return None if self.oldest_ms is None else max(0.0, (now_ms - self.oldest_ms) / 1000)


Ask = Callable[[], Awaitable[Sequence[Lag]]]


class LagProbe:
    """One question at a time, its answer kept for FRESH_MS."""

    def __init__(self, ask: Ask, clock_ms: Callable[[], int]) -> None:
        self._ask = ask
        self._clock_ms = clock_ms
        self._lock = asyncio.Lock()
        self._answer: Sequence[Lag] = ()
        self._at_ms = 0

    async def read(self) -> tuple[int, Sequence[Lag]]:
        """When it was asked, and the answer. Raises TimeoutError where the broker is away."""
        async with self._lock:
            if self._clock_ms() - self._at_ms >= FRESH_MS:
                async with asyncio.timeout(ASK_SECONDS):
                    self._answer = await self._ask()
                self._at_ms = self._clock_ms()
            return self._at_ms, self._answer


async def ask(bootstrap: str) -> list[Lag]:
    """All groups' lag. The age of what waits is read off the records themselves, for the first PEEKED_MAX places."""
    lags = await group_lag(bootstrap)
    places = sorted({place for lag in lags for place in _places(lag)})[:PEEKED_MAX]
    written = await _written_ms(bootstrap, places) if places else {}
    return [
        Lag(
            lag.group,
            lag.topic,
            lag.partitions,
            min((written[place] for place in _places(lag) if place in written), default=None),
        )
        for lag in lags
    ]


def _places(lag: GroupLag) -> list[Place]:
    return [
        (TopicPartition(lag.topic, number), lag.positions[number])
        for number, behind in lag.partitions.items()
        if behind
    ]


async def _written_ms(bootstrap: str, places: Sequence[Place]) -> dict[Place, int]:
    """When the record at each place was written; places that do not answer in time are left out."""
    consumer = KafkaBroker(bootstrap).consumer(GroupSettings(None))
    await consumer.start()
    found: dict[Place, int] = {}
    try:
        async with asyncio.timeout(PEEK_SECONDS):
            # Two groups may stand at two places of one partition, so each round reads one place per partition.
            left = list(places)
            while left:
                round_ = dict(left)
                consumer.assign(list(round_))
                for partition, offset in round_.items():
                    consumer.seek(partition, offset)
                waiting = set(round_)
                while waiting:
                    fetched = await consumer.getmany(*waiting, timeout_ms=200, max_records=len(waiting))
                    for partition, records in fetched.items():
                        found[partition, round_[partition]] = records[0].timestamp
                        waiting.discard(partition)
                left = [place for place in left if place not in found]
    except TimeoutError:
        pass
    finally:
        await consumer.stop()
    return found

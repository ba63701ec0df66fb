"""Owns looking back: which events the service has answered in an earlier life, read from the topics it answers on.

Offsets are committed after answers are acknowledged, about once a second, and a slow record holds back the commits of
those behind it. Whoever dies in between leaves answers behind that no offset tells of; the log itself does.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.errors import NotAllowed
from penstock.runtime.kafka.broker import Broker, Consumer, GroupSettings
from penstock.runtime.kafka.records import Received, TopicPartition
from penstock.runtime.kafka.subscription import may_publish
from penstock.runtime.telemetry import LogEvent, logger

RECORDS_MAX = 200_000
"""Answers read at most: what may have been answered without a commit is a matter of seconds, not of the backlog."""
SECONDS_MAX = 30.0
SKEW_MS = 5_000
"""How far the clocks of two machines may be apart."""
POLL_MS = 1_000
CAUSE = "ce_causationid"

Rest = Callable[[Received, Received], Sequence[Outgoing]]
"""From a request and its answer, what should have gone out beside the answer. Raises ValueError where it cannot say."""

Earlier = dict[bytes, Received | None]
"""By an event's id: None where its answer is whole, the answer where something beside it is missing."""


class LookBack:
    """Reads the causes of answers. `topics` are the answers', and those that get a record beside each answer."""

    def __init__(
        self,
        service: Service,
        broker: Broker,
        topics: Sequence[str],
        rest: Rest,
        *,
        records_max: int = RECORDS_MAX,
    ) -> None:
        allowed = may_publish(service)
        for topic in topics:
            if not allowed(topic):
                raise NotAllowed(f"{service} answers nothing on {topic}")
        self.rest = rest
        self._broker = broker
        self._topics = tuple(topics)
        self._records_max = records_max
        self._log = logger("lookback")

    async def answered(self, since_ms: int) -> Earlier:
        """The events that have been answered since then. Raises KafkaError while the broker is away."""
        earlier: Earlier = {}
        consumer = self._broker.consumer(GroupSettings(group_id=None))
        try:
            await consumer.start()
            async with asyncio.timeout(SECONDS_MAX):
                await self._read(consumer, since_ms, earlier)
        except TimeoutError:
            self._log.warning(LogEvent.LOOK_BACK_CUT, seconds_max=SECONDS_MAX)
        finally:
            await consumer.stop()
        self._log.info(LogEvent.LOOKED_BACK, since_ms=since_ms, answered=len(earlier))
        return earlier

    async def _read(self, consumer: Consumer, since_ms: int, earlier: Earlier) -> None:
        places = [
            TopicPartition(topic, number)
            for topic in self._topics
            for number in sorted(await consumer.learn_partitions(topic))
        ]
        ends = await consumer.end_offsets(places)
        starts = await consumer.offsets_at(places, since_ms)
        chosen = [place for place, start in starts.items() if start < ends[place]]
        if not chosen:
            return
        consumer.assign(chosen)  # once and not of nothing: aiokafka's stop() then waits for ever
        for place in chosen:
            consumer.seek(place, starts[place])
        beside: set[bytes] | None = None
        for topic in reversed(self._topics[1:]):
            answers: dict[bytes, Received] = {}
            await self._read_topic(consumer, topic, chosen, ends, answers.__setitem__)
            beside = set(answers) if beside is None else beside & answers.keys()

        def take(cause: bytes, answer: Received) -> None:
            earlier[cause] = None if beside is None or cause in beside else answer

        await self._read_topic(consumer, self._topics[0], chosen, ends, take)

    async def _read_topic(
        self,
        consumer: Consumer,
        topic: str,
        chosen: Sequence[TopicPartition],
        ends: Mapping[TopicPartition, int],
        take: Callable[[bytes, Received], None],
    ) -> None:
        left = {place: ends[place] for place in chosen if place.topic == topic}
        count = 0
        while left and count < self._records_max:
            for records in (await consumer.getmany(*left, timeout_ms=POLL_MS)).values():
                count += len(records)
                for record in records:
                    if (cause := _cause(record)) is not None:
                        take(cause, record)
            left = {place: end for place, end in left.items() if (consumer.fetched_to(place) or 0) < end}
        if left:
            self._log.warning(LogEvent.LOOK_BACK_CUT, topic=topic, records_max=self._records_max)


def event_id(record: Received) -> bytes:
    """What an answer to this record names as its cause."""
    for name, value in record.headers:
        if name == "ce_id" and value:
            return value
    return f"{record.topic}/{record.partition}/{record.offset}".encode()


def _cause(record: Received) -> bytes | None:
    for name, value in record.headers:
        if name == CAUSE:
            return value
    return None

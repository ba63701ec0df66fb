"""Owns the load: requests in as an upstream system sends them, finished runs out as a downstream system reads them."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from penstock.contracts import topics
from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher

CHUNK = 200
SECONDS_MAX = 300.0
"""A stretch of load that takes longer has lost something."""
DONE = b'"status":"completed"'


@dataclass(slots=True)
class Measured:
    """One stretch of load: how long it took, and each run's time from request to result in milliseconds."""

    runs: int
    seconds: float
    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The latency that `share` of the runs stayed within."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Driver:
    """Publishes run.requested without headers, and reads run.finished."""

    def __init__(self, bootstrap_servers: str, read_side_partitions: int, label: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._partitions = read_side_partitions
        self._publisher = Publisher(Service.UPSTREAM, KafkaBroker(bootstrap_servers))
        self._numbers = itertools.count()
        self._label = label
        self._sent_at: dict[bytes, float] = {}
        self._latencies_ms: list[float] = []
        self._finished = 0
        self._failed: list[bytes] = []
        self._moved = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect, and read from the present end on."""
        await self._publisher.start()
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, group_id=None)
        await consumer.start()
        places = [TopicPartition(topics.RUN_FINISHED.name, number) for number in range(self._partitions)]
        consumer.assign(places)
        await consumer.seek_to_end(*places)
        self._consumer = consumer
        self._reading = asyncio.create_task(self._read(consumer))

    async def stop(self) -> None:
        """Disconnect."""
        if self._reading is not None:
            self._reading.cancel()
        if self._consumer is not None:
            await self._consumer.stop()
        await self._publisher.stop()

    async def saturate(self, workflow: str, runs: int, outstanding_max: int) -> Measured:
        """As many runs as fit through, `outstanding_max` at once."""
        self._begin()
        start = time.perf_counter()
        sent = 0
        while sent < runs:
            await self._until_finished(sent - outstanding_max + 1)
            count = min(CHUNK, runs - sent, outstanding_max - (sent - self._finished))
            self._send(workflow, count)
            sent += count
            await asyncio.sleep(0)
        return await self._end(runs, start)

    async def pace(self, workflow: str, runs: int, per_second: float) -> Measured:
        """Runs at a steady rate, whatever comes back."""
        self._begin()
        start = time.perf_counter()
        for number in range(runs):
            ahead = start + number / per_second - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            self._send(workflow, 1)
        return await self._end(runs, start)

    @property
    def latencies_ms(self) -> list[float]:
        """Of this stretch so far, in the order of the results."""
        return self._latencies_ms

    @property
    def outstanding(self) -> int:
        """Runs that were sent and have not finished."""
        return len(self._sent_at)

    def _begin(self) -> None:
        self._sent_at.clear()
        self._latencies_ms = []
        self._finished = 0
        self._failed = []

    async def _end(self, runs: int, start: float) -> Measured:
        async with asyncio.timeout(SECONDS_MAX):
            await self._until_finished(runs)
        if self._failed:
            raise RuntimeError(f"{len(self._failed)} runs failed, for example {self._failed[0]!r}")
        return Measured(runs, time.perf_counter() - start, self._latencies_ms)

    async def _until_finished(self, runs: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._finished >= runs)

    def _send(self, workflow: str, count: int) -> None:
        records = []
        for _ in range(count):
            run_id = f"{self._label}-{next(self._numbers)}"
            value = orjson.dumps({"workflow": workflow, "run_id": run_id, "input": {"document": "LICENSE"}})
            key = run_id.encode()
            records.append(Outgoing(topic=topics.RUN_REQUESTED.name, key=key, value=value, headers=[]))
        now = time.perf_counter()
        self._sent_at.update((record.key, now) for record in records if record.key is not None)
        self._publisher.send(records)

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            fetched = await consumer.getmany(timeout_ms=10_000, max_records=2_000)
            now = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    sent_at = self._sent_at.pop(record.key, None)
                    if sent_at is None:
                        continue
                    self._latencies_ms.append((now - sent_at) * 1000)
                    self._finished += 1
                    if DONE not in record.value:
                        self._failed.append(record.value)
            async with self._moved:
                self._moved.notify_all()

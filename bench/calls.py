"""Owns the load of model calls: requests as the orchestrator sends them, and their answers by tenant."""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from penstock.contracts.envelope import Outgoing
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import Lane
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_REQUESTED, Service
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher

POOL, MODEL = "small", "bench"
PROMPT_CHARACTERS, MAX_TOKENS = 2_000, 160
"""About 500 tokens in, none of them cached, and 40 to 160 out, as the simulated engine counts them."""
PROMPT = "The quick brown fox jumps over the lazy dog and back. " * (PROMPT_CHARACTERS // 54)


@dataclass(frozen=True, slots=True)
class Answer:
    """How one call went, in milliseconds from its arrival on its topic."""

    queue_ms: float
    total_ms: float
    at_seconds: float


class Calls:
    """Publishes model calls and hears their answers."""

    def __init__(self, bootstrap_servers: str, homes: int) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._homes = homes
        self._publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(bootstrap_servers))
        self._numbers = itertools.count()
        self._label = f"bench-{int(time.time())}"
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.answered = 0

    @asynccontextmanager
    async def running(self) -> Any:
        """Connected, and hearing from the present end on."""
        await self._publisher.start()
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, group_id=None)
        await consumer.start()
        places = [TopicPartition(INFERENCE_COMPLETED.name, number) for number in range(self._homes)]
        consumer.assign(places)
        await consumer.seek_to_end(*places)
        hearing = asyncio.create_task(self._hear(consumer))
        try:
            yield self
        finally:
            hearing.cancel()
            with suppress(asyncio.CancelledError):
                await hearing
            await consumer.stop()
            await self._publisher.stop()

    def send(self, tenant: str, lane: Lane, count: int = 1) -> None:
        """So many requests of a tenant, on their way at once."""
        self._publisher.send([self._request(tenant, lane) for _ in range(count)])

    async def pace(self, rates: dict[str, float], lane: Lane, seconds: float) -> None:
        """Requests of several tenants, each at a steady rate."""
        begun = time.perf_counter()
        sent = dict.fromkeys(rates, 0)
        while (elapsed := time.perf_counter() - begun) < seconds:
            for tenant, rate in rates.items():
                due = int(elapsed * rate)
                if due > sent[tenant]:
                    self.send(tenant, lane, due - sent[tenant])
                    sent[tenant] = due
            await asyncio.sleep(0.02)

    async def until_answered(self, counts: dict[str, int], seconds: float) -> None:
        """Wait until each tenant has so many answers."""
        async with asyncio.timeout(seconds):
            while any(len(self.answers[tenant]) < count for tenant, count in counts.items()):  # noqa: ASYNC110 - measures
                await asyncio.sleep(0.05)

    async def rate(self, seconds: float) -> float:
        """Answers per second over a while."""
        before, begun = self.answered, time.perf_counter()
        await asyncio.sleep(seconds)
        return (self.answered - before) / (time.perf_counter() - begun)

    def _request(self, tenant: str, lane: Lane) -> Outgoing:
        number = next(self._numbers)
        run_id = f"{self._label}-{number}"
        key = run_key(tenant, run_id)
        asked = request_id(key, "ask", 1)
        value = orjson.dumps(
            {
                "request_id": asked,
                "tenant": tenant,
                "run_key": key,
                "run_id": run_id,
                "home": number % self._homes,
                "workflow": "bench",
                "version": "1",
                "step": "ask",
                "attempt": 1,
                "deadline": "2100-01-01T00:00:00Z",
                "priority": lane,
                "pool": POOL,
                "model": MODEL,
                "messages": [{"role": "user", "content": f"{number}: {PROMPT}"}],
                "max_tokens": MAX_TOKENS,
            }
        )
        headers = [("ce_id", str(asked).encode()), ("ce_source", b"bench"), ("ce_tenant", tenant.encode())]
        topic = INFERENCE_REQUESTED.named(pool=POOL, lane=lane)
        return Outgoing(topic, str(key).encode(), value, headers)

    async def _hear(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            fetched = await consumer.getmany(timeout_ms=10_000, max_records=2_000)
            now = time.perf_counter()
            for record in itertools.chain.from_iterable(fetched.values()):
                self._heard(orjson.loads(record.value), now)

    def _heard(self, completed: dict[str, Any], now: float) -> None:
        if completed["status"] != "succeeded":
            raise RuntimeError(f"a call failed: {completed.get('error')}")
        timing = completed["timing"]
        self.answered += 1
        self.answers[completed["tenant"]].append(Answer(timing["queue_ms"], timing["total_ms"], now))


def percentile(values: Iterator[float] | list[float], share: float) -> float:
    """The value that `share` of them stay within."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

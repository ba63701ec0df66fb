"""Owns the parts of the least system that keeps the same promises: a loop, an executor and a read side, a process each.

One kind of workflow, a chain of STEPS steps; everything that makes Penstock more than that is left out. Records have
JSON bodies, ten headers and the same flow as the real ones; state, offsets and outbox are one transaction a batch.
"""

import asyncio
import sys
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import BaseModel

from bench.tasks import RESULT
from penstock.runtime.kafka.records import partition_of
from penstock.runtime.postgres import load_queries

STEPS: Final = 3
PARTITIONS: Final = 4
REQUESTED, WORK, DONE, TOLD, USED, FINISHED = TOPICS = tuple(
    f"floor.{name}" for name in ("requested", "work", "done", "told", "used", "finished")
)
BATCH_BYTES_MAX: Final = 256 * 1024
SENDS_MAX: Final = 8
SQL: Final = load_queries(Path(__file__).parent / "floor.sql")

_ATTRIBUTES: Final = [
    ("ce_specversion", b"1.0"),
    ("ce_type", b"floor"),
    ("ce_source", b"floor"),
    ("content-type", b"application/json"),
    ("ce_time", b"2026-01-01T00:00:00.000Z"),
    ("ce_tenant", b"default"),
]

Sent = tuple[str, int, bytes, bytes, str]
"""Topic, partition, key, value, cause."""


class Requested(BaseModel):
    """A run is asked for."""

    run_id: str
    input: dict[str, Any]


class Work(BaseModel):
    """A step is asked for."""

    run_id: str
    home: int
    step: int
    input: dict[str, Any]


class Done(BaseModel):
    """A step is done."""

    run_id: str
    step: int
    output: dict[str, Any]


def _sent(topic: str, run_id: str, body: object, cause: str, partition: int | None = None) -> Sent:
    key = run_id.encode()
    return topic, partition_of(key, PARTITIONS) if partition is None else partition, key, orjson.dumps(body), cause


async def _send(producer: AIOKafkaProducer, records: Iterable[Sent]) -> None:
    """In batches of our own; returns when all is acknowledged."""
    by_place: dict[tuple[str, int], list[Sent]] = defaultdict(list)
    for record in records:
        by_place[record[0], record[1]].append(record)
    arrived: list[Awaitable[object]] = []
    for (topic, partition), each in by_place.items():
        batch = producer.create_batch()
        for _, _, key, value, cause in each:
            headers = [*_ATTRIBUTES, ("ce_id", key), ("ce_correlationid", key), ("ce_causationid", cause.encode())]
            headers.append(("traceparent", b"00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"))
            if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                arrived.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(timestamp=None, key=key, value=value, headers=headers)
        arrived.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*arrived)


async def _batches(servers: str, topics: Sequence[str]) -> AsyncIterator[list[Any]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)])
    while True:
        fetched: Mapping[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=60_000, max_records=1_000)
        yield [record for records in fetched.values() for record in records]


class Loop:
    """The orchestrator: batch in, one transaction, batch out."""

    def __init__(self, producer: AIOKafkaProducer, connection: asyncpg.Connection) -> None:
        self._producer = producer
        self._connection = connection
        self._steps: dict[str, int] = {}
        self._sends: deque[tuple[asyncio.Task[None], int]] = deque()
        self._acknowledged: list[int] = []

    async def take(self, records: Sequence[Any]) -> None:
        """One batch."""
        offsets = {(record.topic, record.partition): record.offset + 1 for record in records}
        started: list[tuple[str, str]] = []
        ended: list[str] = []
        stepped: list[tuple[str, int, str | None]] = []
        outgoing: list[Sent] = []
        for record in records:
            if record.topic == REQUESTED:
                asked = Requested.model_validate_json(record.value)
                if asked.run_id in self._steps:
                    continue
                run_id, done, given = asked.run_id, 0, asked.input
                started.append((run_id, orjson.dumps(given).decode()))
            else:
                said = Done.model_validate_json(record.value)
                if self._steps.get(said.run_id) != said.step:
                    continue
                run_id, done, given = said.run_id, said.step, said.output
                stepped.append((run_id, done, orjson.dumps(given).decode()))
            self._go_on(run_id, done, given, record.partition, ended, stepped, outgoing)
        await self._write(offsets, started, ended, stepped, outgoing)

    def _go_on(
        self,
        run_id: str,
        done: int,
        given: object,
        home: int,
        ended: list[str],
        stepped: list[tuple[str, int, str | None]],
        outgoing: list[Sent],
    ) -> None:
        cause = f"{run_id}/{done}"
        outgoing.append(_sent(TOLD, run_id, {"run_id": run_id, "done": done, "status": "running"}, cause))
        if done == STEPS:
            del self._steps[run_id]
            ended.append(run_id)
            outgoing.append(_sent(FINISHED, run_id, {"run_id": run_id, "status": "completed", "output": given}, cause))
            return
        self._steps[run_id] = done + 1
        stepped.append((run_id, done + 1, None))
        work = {"run_id": run_id, "home": home, "step": done + 1, "input": given}
        outgoing.append(_sent(WORK, run_id, work, cause))

    async def _write(
        self,
        offsets: Mapping[tuple[str, int], int],
        started: Sequence[tuple[str, str]],
        ended: Sequence[str],
        stepped: Sequence[tuple[str, int, str | None]],
        outgoing: Sequence[Sent],
    ) -> None:
        while self._sends and (self._sends[0][0].done() or len(self._sends) >= SENDS_MAX):
            sent, row = self._sends.popleft()
            await sent
            self._acknowledged.append(row)
        last = {(run_id, step): output for run_id, step, output in stepped}  # a row once a statement
        row = await self._connection.fetchval(
            SQL["commit"],
            [topic for topic, _ in offsets],
            [partition for _, partition in offsets],
            list(offsets.values()),
            [run_id for run_id, _ in started],
            [given for _, given in started],
            list(ended),
            [run_id for run_id, _ in last],
            [step for _, step in last],
            list(last.values()),
            self._acknowledged,
            orjson.dumps([(topic, value.decode()) for topic, _, _, value, _ in outgoing]),
        )
        self._acknowledged = []
        self._sends.append((asyncio.create_task(_send(self._producer, outgoing)), row))


async def _loop(servers: str, postgres_url: str, producer: AIOKafkaProducer) -> None:
    loop = Loop(producer, await asyncpg.connect(postgres_url))
    async for records in _batches(servers, (REQUESTED, DONE)):
        await loop.take(records)


async def _executor(servers: str, postgres_url: str, producer: AIOKafkaProducer) -> None:
    del postgres_url
    async for records in _batches(servers, (WORK,)):
        outgoing: list[Sent] = []
        for record in records:
            work = Work.model_validate_json(record.value)
            cause = f"{work.run_id}/{work.step}"
            done = {"run_id": work.run_id, "step": work.step, "output": RESULT}
            outgoing.append(_sent(DONE, work.run_id, done, cause, work.home))
            used = {"run_id": work.run_id, "step": work.step, "kind": "task", "cost": "0", "total_ms": 1.5}
            outgoing.append(_sent(USED, work.run_id, used, cause))
        await _send(producer, outgoing)


async def _read_side(servers: str, postgres_url: str, producer: AIOKafkaProducer) -> None:
    del producer
    connection = await asyncpg.connect(postgres_url)
    async for records in _batches(servers, (TOLD, USED)):
        bodies = [(record.topic, orjson.loads(record.value)) for record in records]
        runs = {body["run_id"]: body["done"] for topic, body in bodies if topic == TOLD}
        used = [body for topic, body in bodies if topic == USED]
        await connection.execute(
            SQL["read_side"],
            list(runs),
            list(runs.values()),
            [body["run_id"] for body in used],
            [body["step"] for body in used],
            [body["cost"] for body in used],
        )


async def _main(role: str, servers: str, postgres_url: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES_MAX
    )
    await producer.start()
    await {"loop": _loop, "executor": _executor, "read_side": _read_side}[role](servers, postgres_url, producer)


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))

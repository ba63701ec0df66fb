"""Owns `python -m bench.floor`: what this machine could do at all, to set `make bench` against.

The least system that keeps the same promises (see floor_parts) runs the same chain of three steps on the same Kafka
and Postgres, driver included. A figure of `make bench` divided by this one means the same on every machine.
"""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import asyncpg
import orjson
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from rich.console import Console

from bench.driver import SECONDS_MAX
from bench.floor_parts import FINISHED, PARTITIONS, REQUESTED, SQL, STEPS, TOPICS
from bench.processes import Processes
from bench.running import run
from penstock.runtime.kafka.records import partition_of
from services.local.stack import LocalStack

OUTSTANDING_MAX = 2_000
CHUNK = 200
ROLES = ("loop", "executor", "read_side")

console = Console()


def main(
    repeats: Annotated[int, typer.Option(min=1, max=20)] = 3,
    runs: Annotated[int, typer.Option(help="workflows per repeat", min=1_000)] = 20_000,
) -> None:
    """Measure the least system with the same promises: steps/s of a chain of three steps, saturated.

    Example: python -m bench.floor --repeats 1
    """
    run(_floor(repeats, runs))


async def _floor(repeats: int, runs: int) -> None:
    data = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    stack = LocalStack(data)
    roles: list[asyncio.subprocess.Process] = []
    try:
        await stack.start()
        await _prepare(stack)
        url = stack.postgres_url("postgres")
        arguments = (stack.bootstrap_servers, url)
        for role in ROLES:
            started = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.floor_parts", role, *arguments, cwd=Path(__file__).parents[1]
            )
            roles.append(started)
        pids = {name: part.pid for name, part in stack.parts.items() if part.pid is not None}
        pids |= {role: process.pid for role, process in zip(ROLES, roles, strict=True)}
        await _measure(stack.bootstrap_servers, Processes(pids), repeats, runs)
    finally:
        for process in roles:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await stack.stop()
        shutil.rmtree(data, ignore_errors=True)


async def _prepare(stack: LocalStack) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in TOPICS])
    await admin.close()
    connection = await asyncpg.connect(stack.postgres_url("postgres"))
    await connection.execute(SQL["create_tables"])
    await connection.close()


async def _measure(servers: str, processes: Processes, repeats: int, runs: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    await producer.start()
    await consumer.start()
    consumer.assign([TopicPartition(FINISHED, number) for number in range(PARTITIONS)])
    try:
        await _saturate(producer, consumer, "warm", 2_000)
        rates = []
        for repeat in range(repeats):
            processes.mark()
            seconds = await _saturate(producer, consumer, f"run{repeat}", runs)
            rates.append(STEPS * runs / seconds)
            shares = processes.spent().shares(seconds)
            told = ", ".join(f"{part} {share:.2f}" for part, share in sorted(shares.items(), key=lambda each: -each[1]))
            console.print(f"{rates[-1]:,.0f} steps/s; cores: {told}")
        console.print(f"median {statistics.median(rates):,.0f} steps/s: what {STEPS}-step chains could reach here")
    finally:
        await consumer.stop()
        await producer.stop()


async def _saturate(producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, label: str, runs: int) -> float:
    sent = finished = 0
    began = time.perf_counter()
    while finished < runs:
        if time.perf_counter() - began > SECONDS_MAX:
            raise TimeoutError(
                f"{runs - finished} of {runs} runs are missing after {SECONDS_MAX:.0f} s: has a part died?"
            )
        while sent < runs and sent - finished <= OUTSTANDING_MAX - CHUNK:
            batches = [producer.create_batch() for _ in range(PARTITIONS)]
            for number in range(sent, min(sent + CHUNK, runs)):
                run_id = f"{label}-{number}"
                value = orjson.dumps({"run_id": run_id, "input": {"document": "LICENSE"}})
                key = run_id.encode()
                batches[partition_of(key, PARTITIONS)].append(timestamp=None, key=key, value=value)
            for partition, batch in enumerate(batches):
                if batch.record_count():
                    await producer.send_batch(batch, REQUESTED, partition=partition)
            sent = min(sent + CHUNK, runs)
        fetched = await consumer.getmany(timeout_ms=10_000, max_records=2_000)
        finished += sum(map(len, fetched.values()))
    return time.perf_counter() - began


if __name__ == "__main__":
    typer.run(main)

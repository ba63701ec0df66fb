"""Owns services as real processes in tests: started with an environment, watched by their log, ended by a signal."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from penstock.contracts.envelope import Headers
from penstock.contracts.topics import Deployment

ROOT: Final = Path(__file__).parents[3]
WAIT_SECONDS: Final = 60.0
LOG_LINE_BYTES_MAX: Final = 4 * 1024 * 1024


class ServiceProcess:
    """One `python -m services.<name>`. Its log lines are kept, and waited for instead of time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process: Final = process
        self.lines: Final[list[dict[str, Any]]] = []
        self._news: Final = asyncio.Condition()
        self._reader: Final = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def logged(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first line of that event with those fields; waits for it."""

        def found() -> list[dict[str, Any]]:
            wanted = {"event": event, **fields}
            return [line for line in self.lines if wanted.items() <= line.items()]

        async with asyncio.timeout(WAIT_SECONDS), self._news:
            await self._news.wait_for(lambda: found() or self._reader.done())
        lines = found()
        if not lines:
            raise AssertionError(f"the process ended without {event!r}: {self.lines[-5:]}")
        return lines[0]

    async def ready(self) -> dict[str, Any]:
        """The body of /readyz, whatever it says."""
        url = (await self.logged("service.started"))["health_url"]

        def ask() -> bytes:
            with urlopen(f"{url}/readyz", timeout=WAIT_SECONDS) as response:
                body: bytes = response.read()
                return body

        report: dict[str, Any] = orjson.loads(await asyncio.to_thread(ask))
        return report

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """The exit code, when there is one."""
        async with asyncio.timeout(WAIT_SECONDS):
            code = await self._process.wait()
            await self._reader
        return code

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:
                line = {"event": raw.decode(errors="replace")}
            async with self._news:
                self.lines.append(line)
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def service_process(
    name: str, bootstrap_servers: str, environ: Mapping[str, str]
) -> AsyncIterator[ServiceProcess]:
    """A service that runs until the block ends; killed then, if nobody stopped it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"services.{name}",
        cwd=ROOT,
        env={
            "PYTHONPATH": f"{ROOT / 'libs'}:{ROOT}",
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "PENSTOCK_LOG_FORMAT": "json",
            **environ,
        },
        stderr=asyncio.subprocess.PIPE,
        limit=LOG_LINE_BYTES_MAX,
    )
    service = ServiceProcess(process)
    try:
        yield service
    finally:
        service.kill()
        await service.ended()


def deployment_environ(deployment: Deployment) -> dict[str, str]:
    """A deployment as the settings read it."""
    return {
        "PENSTOCK_POOLS": ",".join(deployment.pools),
        "PENSTOCK_QUEUES": ",".join(deployment.queues),
        "PENSTOCK_HOME_PARTITIONS": str(deployment.home_partitions),
        "PENSTOCK_WORK_PARTITIONS": str(deployment.work_partitions),
        "PENSTOCK_READ_SIDE_PARTITIONS": str(deployment.read_side_partitions),
    }


class Topics:
    """What a test says to the topics and hears from them, from the moment it began to listen."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer) -> None:
        self._producer: Final = producer
        self._consumer: Final = consumer
        self._heard: Final[list[ConsumerRecord]] = []

    async def say(self, topic: str, value: bytes | None, headers: Headers | None = None, *, key: bytes = b"k") -> None:
        """Publishes one record and waits for its acknowledgement."""
        await self._producer.send_and_wait(topic, value, key=key, headers=headers or [], partition=0)

    async def hear(self, topic: str, count: int, containing: bytes = b"") -> list[ConsumerRecord]:
        """The first `count` records of a topic whose value holds those bytes; waits for them."""

        def found() -> list[ConsumerRecord]:
            return [each for each in self._heard if each.topic == topic and containing in (each.value or b"")]

        async with asyncio.timeout(WAIT_SECONDS):
            while len(found()) < count:
                for records in (await self._consumer.getmany(timeout_ms=200)).values():
                    self._heard.extend(records)
        return found()[:count]


@asynccontextmanager
async def topics(bootstrap_servers: str, listen_to: Sequence[str]) -> AsyncIterator[Topics]:
    """Listens to all partitions of those topics from now on."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, fetch_max_wait_ms=100)
    await producer.start()
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic, number) for topic in listen_to for number in await producer.partitions_for(topic)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        for partition in partitions:
            await consumer.position(partition)
        yield Topics(producer, consumer)
    finally:
        await producer.stop()
        await consumer.stop()

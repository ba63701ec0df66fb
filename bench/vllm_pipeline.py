"""Owns the pipeline's side of `make bench-vllm`: Kafka and the inference service, asked and heard as others do it."""

import itertools
import json
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.processes import Processes
from bench.vllm_load import ENGINE, MODEL, POOL, Level, prompts
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_REQUESTED, Service
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from services.local.options import Counts, Options
from services.local.services import add_services
from services.local.stack import LocalStack

READY_SECONDS: Final = 600.0
SETTLE: Final = 12
"""Rounds of as many requests as are in flight, before the clock runs: the control law finds its batch in them."""
KAFKA, SERVICE = "kafka", "inference-0"


@asynccontextmanager
async def through_kafka(options: dict[str, Any], concurrency: int) -> AsyncIterator["Asked"]:
    """A broker and one inference service with an engine of its own, ready."""
    data = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    asked = Options(
        model="simulated",
        counts=Counts(orchestrator=0, tool_executor=0, worker=0, gateway=0),
        service_environment={
            "inference": {
                "PENSTOCK_INFERENCE_ENGINE": "vllm",
                "PENSTOCK_INFERENCE_MODEL": MODEL,
                "PENSTOCK_INFERENCE_CONCURRENCY": str(concurrency),
                "PENSTOCK_INFERENCE_VLLM": json.dumps(options),
            }
        },
        pools=(POOL,),
    )
    stack = LocalStack(data, deployment=asked.deployment)
    add_services(stack, asked)
    try:
        await stack.start((KAFKA, SERVICE), ready_seconds=READY_SECONDS)
        pids = {name: pid for name in (KAFKA, SERVICE) if (pid := stack.parts[name].pid) is not None}
        processes = Processes(pids, {SERVICE: ENGINE})
        async with Asked(stack.bootstrap_servers, asked.home_partitions, processes).running() as load:
            yield load
    finally:
        await stack.stop()
        shutil.rmtree(data, ignore_errors=True)


class Asked:
    """Keeps so many requests in flight through Kafka: an answer in, a request out."""

    def __init__(self, bootstrap_servers: str, homes: int, processes: Processes) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._processes = processes
        self._homes = homes
        self._publisher = Publisher(Service.ORCHESTRATOR, KafkaBroker(bootstrap_servers))
        self._requests = prompts()
        self._sent: dict[str, float] = {}
        self._ready: list[Outgoing] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Asked"]:
        """Connected, and hearing from the present end on."""
        await self._publisher.start()
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, group_id=None)
        await self._consumer.start()
        places = [TopicPartition(INFERENCE_COMPLETED.name, number) for number in range(self._homes)]
        self._consumer.assign(places)
        await self._consumer.seek_to_end(*places)
        try:
            yield self
        finally:
            await self._consumer.stop()
            await self._publisher.stop()

    async def measured(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """One level. What is left in flight at its end is waited for."""
        level = Level(in_flight)
        await self._exchange(in_flight, None, level, rounds=SETTLE)
        self._processes.mark()
        level.seconds = await self._exchange(0, seconds, level)
        level.cpu = self._processes.spent().seconds
        await self._drained()
        return level.as_dict()

    async def _exchange(self, new: int, seconds: float | None, level: Level, rounds: int = 0) -> float:
        self._send(new)
        began = time.perf_counter()
        heard = 0
        while heard < rounds * new if seconds is None else time.perf_counter() - began < seconds:
            for sent_at, at, completed in await self._heard():
                heard += 1
                self._send(1, flush=False)
                if seconds is not None:
                    timing = completed["timing"]
                    in_engine_ms = timing["total_ms"] - timing["queue_ms"]
                    level.take(completed["usage"]["output"], 1000 * (at - sent_at), in_engine_ms)
            self._flush()
        return time.perf_counter() - began

    async def _drained(self) -> None:
        while self._sent:
            deque(await self._heard(), maxlen=0)

    async def _heard(self) -> list[tuple[float, float, dict[str, Any]]]:
        """When each was sent, when its answer was there, and the answer."""
        fetched = await self._consumer.getmany(timeout_ms=1_000, max_records=2_000)
        now = time.perf_counter()
        answers = []
        for record in itertools.chain.from_iterable(fetched.values()):
            completed = orjson.loads(record.value)
            if completed["status"] != "succeeded":
                raise RuntimeError(f"a call failed: {completed.get('error')}")
            answers.append((self._sent.pop(completed["request_id"]), now, completed))
        return answers

    def _send(self, count: int, *, flush: bool = True) -> None:
        for request in itertools.islice(self._requests, count):
            self._sent[str(request.request_id)] = time.perf_counter()
            self._ready.append(_record(request, self._homes))
        if flush:
            self._flush()

    def _flush(self) -> None:
        if self._ready:
            self._publisher.send(self._ready)
            self._ready = []


def _record(request: InferenceRequested, homes: int) -> Outgoing:
    asked = str(request.request_id).encode()
    headers = [("ce_id", asked), ("ce_source", b"bench"), ("ce_tenant", request.tenant.encode())]
    topic = INFERENCE_REQUESTED.named(pool=POOL, lane=request.priority)
    home = request.run_key.int % homes
    return Outgoing(topic, str(request.run_key).encode(), request.model_copy(update={"home": home}).to_json(), headers)

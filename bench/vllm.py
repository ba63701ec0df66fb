"""Owns `make bench-vllm`: the vLLM engine through Kafka, end to end, against the same engine driven raw and over HTTP.

Everything is real: the engine on this machine's CPU, Kafka, the inference service. Each pair of figures comes from one
run, one after the other on the same cores, and what counts is their ratio. The driver's own work is part of the
pipeline's side.
"""

import asyncio
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.processes import Processes
from bench.vllm_load import MODEL, POOL, Level, prompts
from bench.vllm_serve import served
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_REQUESTED, Service
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from services.local.options import Counts, Options
from services.local.services import add_services
from services.local.small_models import SmallModel, prepared
from services.local.stack import LocalStack

RESULTS: Final = Path(__file__).parent / "results"
READY_SECONDS: Final = 600.0
SETTLE: Final = 12
"""Rounds of as many requests as are in flight, before the clock runs: the control law finds its batch in them."""

console = Console()


@dataclass(frozen=True, slots=True)
class Aim:
    """One line of the table: which figure of which levels is compared, and what is wanted of it."""

    model: SmallModel
    in_flight: int
    rival: str
    figure: str
    wanted: float
    """A ratio to the rival at least; of latency, milliseconds more at most."""


AIMS: Final = (
    Aim("smollm2-135m", 32, "raw", "tokens_per_second", 0.97),
    Aim("tiny-random", 64, "raw", "requests_per_second", 0.90),
    Aim("tiny-random", 256, "raw", "requests_per_second", 0.90),
    Aim("tiny-random", 1, "raw", "p50_ms", 12.0),
    Aim("tiny-random", 64, "serve", "requests_per_second", 1.25),
)


def main(
    seconds: Annotated[float, typer.Option(help="length of each measurement", min=1)] = 15.0,
    models: Annotated[str, typer.Option(help="smollm2-135m, tiny-random, or both")] = "tiny-random,smollm2-135m",
    serve: Annotated[bool, typer.Option(help="measure `vllm serve` as well")] = True,
    save: Annotated[bool, typer.Option(help="write bench/results/vllm.json")] = True,
) -> None:
    """Measure vLLM through Kafka against the same engine driven raw, and against `vllm serve`.

    Example: .venv-vllm/bin/python -m bench.vllm --models tiny-random --no-save
    """
    report: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds}
    for model in models.split(","):
        aims = [aim for aim in AIMS if aim.model == model]
        levels = sorted({aim.in_flight for aim in aims})
        report[model] = asyncio.run(_measured(aims[0].model, levels, seconds, serve=serve))
    lines = [line for aim in AIMS if (line := _line(aim, report)) is not None]
    _print(lines)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "vllm.json").write_text(json.dumps(report | {"lines": lines}, indent=2) + "\n")


async def _measured(model: SmallModel, levels: list[int], seconds: float, *, serve: bool) -> dict[str, Any]:
    options = _options(model)
    found: dict[str, Any] = {"raw": await _raw(options, levels, seconds)}
    found["kafka"] = await _through_kafka(options, levels, seconds)
    if serve and model == "tiny-random":
        found["serve"] = [await served(options["arguments"], options["environment"], 64, seconds)]
    for side, figures in found.items():
        for level in figures:
            console.print(f"{model} {side} {level}")
    return found


def _options(model: SmallModel) -> dict[str, Any]:
    return {
        "arguments": {
            "model": str(prepared(model)),
            "dtype": "bfloat16",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": 256,
            "kv_cache_memory_bytes": 512 * 1024 * 1024,
        },
        "environment": {
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        },
        "start_method": "fork",
    }


async def _raw(options: dict[str, Any], levels: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.vllm_raw", json.dumps(options), json.dumps(list(levels)), str(seconds)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return [json.loads(line) for line in output.splitlines() if line.startswith(b'{"in_flight"')]


async def _through_kafka(options: dict[str, Any], levels: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    data = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    asked = Options(
        model="simulated",
        counts=Counts(orchestrator=0, tool_executor=0, worker=0, gateway=0),
        service_environment={
            "inference": {
                "PENSTOCK_INFERENCE_ENGINE": "vllm",
                "PENSTOCK_INFERENCE_MODEL": MODEL,
                "PENSTOCK_INFERENCE_CONCURRENCY": str(max(levels)),
                "PENSTOCK_INFERENCE_VLLM": json.dumps(options),
            }
        },
        pools=(POOL,),
    )
    stack = LocalStack(data, deployment=asked.deployment)
    add_services(stack, asked)
    names = ("kafka", "inference-0")
    try:
        await stack.start(names, ready_seconds=READY_SECONDS)
        processes = Processes({name: pid for name in names if (pid := stack.parts[name].pid) is not None})
        async with Asked(stack.bootstrap_servers, asked.home_partitions).running() as load:
            return [await load.measured(in_flight, seconds, processes) for in_flight in levels]
    finally:
        await stack.stop()
        shutil.rmtree(data, ignore_errors=True)


class Asked:
    """Keeps so many requests in flight through Kafka: an answer in, a request out."""

    def __init__(self, bootstrap_servers: str, homes: int) -> None:
        self._bootstrap_servers = bootstrap_servers
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

    async def measured(self, in_flight: int, seconds: float, processes: Processes) -> dict[str, Any]:
        """One level. What is left in flight at its end is waited for."""
        level = Level(in_flight)
        await self._exchange(in_flight, None, level, rounds=SETTLE)
        processes.mark()
        level.seconds = await self._exchange(0, seconds, level)
        spent = processes.spent()
        level.cpu_seconds = sum(spent.seconds.values())
        await self._drained()
        return level.as_dict() | {"cores": spent.shares(level.seconds)}

    async def _exchange(self, new: int, seconds: float | None, level: Level, rounds: int = 0) -> float:
        self._send(new)
        began = time.perf_counter()
        heard = 0
        while heard < rounds * new if seconds is None else time.perf_counter() - began < seconds:
            for sent_at, tokens, at in await self._heard():
                heard += 1
                self._send(1, flush=False)
                if seconds is not None:
                    level.take(tokens, 1000 * (at - sent_at))
            self._flush()
        return time.perf_counter() - began

    async def _drained(self) -> None:
        while self._sent:
            deque(await self._heard(), maxlen=0)

    async def _heard(self) -> list[tuple[float, int, float]]:
        fetched = await self._consumer.getmany(timeout_ms=1_000, max_records=2_000)
        now = time.perf_counter()
        answers = []
        for record in itertools.chain.from_iterable(fetched.values()):
            completed = orjson.loads(record.value)
            if completed["status"] != "succeeded":
                raise RuntimeError(f"a call failed: {completed.get('error')}")
            answers.append((self._sent.pop(completed["request_id"]), completed["usage"].get("output", 0), now))
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


def _line(aim: Aim, report: dict[str, Any]) -> dict[str, Any] | None:
    sides = report.get(aim.model, {})
    ours, rival = (_at(sides.get(side, []), aim.in_flight) for side in ("kafka", aim.rival))
    if ours is None or rival is None:
        return None
    mine, theirs = ours[aim.figure], rival[aim.figure]
    latency = aim.figure == "p50_ms"
    value = round(mine - theirs, 2) if latency else round(mine / theirs, 3)
    met = value <= aim.wanted if latency else value >= aim.wanted
    what = f"{aim.model} at {aim.in_flight}, {aim.figure.replace('_', ' ')}, against {aim.rival}"
    return {"what": what, "kafka": mine, "rival": theirs, "value": value, "wanted": aim.wanted, "met": met} | {
        "cpu_ms_per_request": [ours["cpu_ms_per_request"], rival["cpu_ms_per_request"]]
    }


def _at(levels: Sequence[dict[str, Any]], in_flight: int) -> dict[str, Any] | None:
    return next((level for level in levels if level["in_flight"] == in_flight), None)


def _print(lines: Sequence[dict[str, Any]]) -> None:
    table = Table("what", "through Kafka", "rival", "ratio, or ms more", "aim", "CPU ms per request")
    for line in lines:
        cpu = " / ".join(str(value) for value in line["cpu_ms_per_request"])
        value = f"{line['value']}{'' if line['met'] else ' (not met)'}"
        table.add_row(line["what"], str(line["kafka"]), str(line["rival"]), value, str(line["wanted"]), cpu)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)

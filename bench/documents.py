"""Owns `make bench-documents`: documents per hour through three model calls each, the whole system and its driver.

The engine is simulated, and set fast enough not to be what is measured: requests, decisions, usage, progress and the
read side are real, as in `make bench`. A document counts as done when nobody has anything left to read of it: answers
alone come faster than the read side keeps up with. With `--minutes` it goes on at 80 % of that rate, and looks for what
grows.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.calls import MODEL, POOL, percentile
from bench.driver import Driver, Measured
from bench.processes import Processes
from bench.running import run
from penstock.contracts import topics
from penstock.contracts.envelope import Envelope, encode
from penstock.contracts.topics import Service
from penstock.runtime.kafka.admin import group_lag
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from penstock.workflow.definition import Chain, Definition
from penstock.workflow.parts import ModelStep
from penstock.workflow.publish import published
from penstock.workflow.tiers import Route
from services.local.options import Counts, Options
from services.local.services import add_services
from services.local.stack import LocalStack

RESULTS = Path(__file__).parent / "results"
CALLS = 3
OUTSTANDING_MAX = 2_000
AIM_PER_HOUR = 3_000_000
SHARE = 0.8
SAMPLE_SECONDS = 15.0
SETTLE_SECONDS = 0.5
"""Between two looks at what is left to read. Positions are committed about once a second: it shows that much late."""
SETTLE_SECONDS_MAX = 600.0

DOCUMENT = Definition(
    name="bench-document",
    version="1",
    tiers={"reader": [Route(pool=POOL, model=MODEL)]},
    do=Chain(
        id="main",
        chain=[
            ModelStep(id="classify", model="reader", prompt="Classify: {{ input.document }}", max_tokens=16),
            ModelStep(id="extract", model="reader", prompt="From: {{ classify }} {{ input.document }}", max_tokens=32),
            ModelStep(id="summarise", model="reader", prompt="Summarise: {{ extract }}", max_tokens=32),
        ],
    ),
)
"""Three model calls in a row, each with what the one before said."""

console = Console()


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at the system under steady load."""

    at_seconds: float
    p50_ms: float
    p99_ms: float
    outstanding: int
    lag: int
    memory_mib: dict[str, float]


def main(
    documents: Annotated[int, typer.Option(help="documents per repeat", min=500)] = 10_000,
    repeats: Annotated[int, typer.Option(min=1, max=20)] = 3,
    speed: Annotated[float, typer.Option(help="virtual seconds per second of the simulated engine", min=1)] = 400.0,
    minutes: Annotated[float, typer.Option(help="then so long at 80 % of that; 30 is the soak", min=0)] = 0.0,
    rate: Annotated[float, typer.Option(help="documents/s of the soak; 0: 80 % of what was reached", min=0)] = 0.0,
    save: Annotated[bool, typer.Option(help="write bench/results/documents.json")] = True,
) -> None:
    """Measure documents per hour on this machine, and where its processors' time goes.

    Example: python -m bench.documents --minutes 30
    """
    report: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "speed": speed}
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", ignore_cleanup_errors=True) as data:
        run(_bench(report, Path(data), documents, repeats, minutes, rate))
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "documents.json").write_text(json.dumps(report, indent=2) + "\n")


async def _bench(report: dict[str, Any], data: Path, documents: int, repeats: int, minutes: float, rate: float) -> None:
    options = Options(
        model="simulated",
        counts=Counts(tool_executor=0, worker=0),
        pools=(POOL,),
        service_environment={
            "inference": {
                "PENSTOCK_INFERENCE_MODEL": MODEL,
                "PENSTOCK_INFERENCE_SIMULATED_SPEED": str(report["speed"]),
                "PENSTOCK_INFERENCE_CONCURRENCY": "1024",
            }
        },
    )
    stack = LocalStack(data, deployment=options.deployment)
    add_services(stack, options)
    async with AsyncExitStack() as ending:
        ending.push_async_callback(stack.stop)
        await stack.start()
        processes = Processes({name: part.pid for name, part in stack.parts.items() if part.pid is not None})
        driver = Driver(stack.bootstrap_servers, options.read_side_partitions, f"bench{int(time.time())}")
        ending.push_async_callback(driver.stop)
        await driver.start()
        await _publish(stack.bootstrap_servers)
        report["saturated"] = await _saturated(driver, processes, stack.bootstrap_servers, documents, repeats)
        if minutes > 0:
            steady = rate or SHARE * report["saturated"]["documents_per_second"]
            samples = await _soak(driver, processes, stack.bootstrap_servers, steady, minutes * 60)
            report["soak"] = {
                "documents_per_second": steady,
                "growth": _growth(samples),
                "samples": [asdict(each) for each in samples],
            }
            console.print(report["soak"]["growth"])


async def _saturated(
    driver: Driver, processes: Processes, bootstrap_servers: str, documents: int, repeats: int
) -> dict[str, Any]:
    await driver.saturate(DOCUMENT.name, 2_000, OUTSTANDING_MAX)  # caches, plans, connections, and the batch's law
    await _settled(bootstrap_servers)
    answered: list[float] = []
    sustained: list[float] = []
    cores: list[dict[str, float]] = []
    for _ in range(repeats):
        processes.mark()
        began = time.perf_counter()
        measured = await driver.saturate(DOCUMENT.name, documents, OUTSTANDING_MAX)
        await _settled(bootstrap_servers)
        seconds = time.perf_counter() - began
        answered.append(measured.runs / measured.seconds)
        sustained.append(measured.runs / seconds)
        cores.append(processes.spent().shares(seconds))
        console.print(
            f"{sustained[-1]:,.0f} documents/s, {3600 * sustained[-1]:,.0f} an hour ({answered[-1]:,.0f}/s answered)"
        )
    middle = sustained.index(statistics.median_low(sustained))
    per_call = {part: round(1e6 * share / sustained[middle] / CALLS) for part, share in cores[middle].items()}
    table = Table("part", "cores", "µs per model call", title=f"{3600 * sustained[middle]:,.0f} documents an hour")
    for part, share in sorted(cores[middle].items(), key=lambda each: -each[1]):
        table.add_row(part, f"{share:.2f}", f"{per_call[part]:,}")
    console.print(table)
    return {
        "documents_per_hour": round(3600 * sustained[middle]),
        "aim_per_hour": AIM_PER_HOUR,
        "documents_per_second": sustained[middle],
        "documents_answered_per_second": answered[middle],
        "repeats": sustained,
        "repeats_answered": answered,
        "cores": cores[middle],
        "microseconds_per_call": per_call,
    }


async def _settled(bootstrap_servers: str) -> None:
    """Returns once nobody has anything left to read."""
    async with asyncio.timeout(SETTLE_SECONDS_MAX):
        while any(group.total for group in await group_lag(bootstrap_servers)):  # noqa: ASYNC110 - other processes' work
            await asyncio.sleep(SETTLE_SECONDS)


async def _soak(
    driver: Driver, processes: Processes, bootstrap_servers: str, rate: float, seconds: float
) -> list[Sample]:
    console.print(f"{seconds / 60:.0f} minutes at {rate:,.0f} documents/s")
    pacing = asyncio.create_task(driver.pace(DOCUMENT.name, int(rate * seconds), rate))
    try:
        return await _sampled(pacing, driver, processes, bootstrap_servers)
    finally:
        pacing.cancel()


async def _sampled(
    pacing: asyncio.Task[Measured], driver: Driver, processes: Processes, bootstrap_servers: str
) -> list[Sample]:
    begun, seen = time.perf_counter(), 0
    samples: list[Sample] = []
    while not pacing.done():
        await asyncio.wait((pacing,), timeout=SAMPLE_SECONDS)
        latencies = driver.latencies_ms[seen:]
        seen += len(latencies)
        if not latencies or pacing.done():
            continue  # the last sample would be of the drain
        samples.append(
            Sample(
                at_seconds=round(time.perf_counter() - begun, 1),
                p50_ms=round(percentile(latencies, 0.5), 1),
                p99_ms=round(percentile(latencies, 0.99), 1),
                outstanding=driver.outstanding,
                lag=sum(group.total for group in await group_lag(bootstrap_servers)),
                memory_mib={part: round(size, 1) for part, size in processes.memory_mib().items()},
            )
        )
        console.print(samples[-1])
    await pacing
    return samples


def _growth(samples: Sequence[Sample]) -> dict[str, Any]:
    """The last third against the second: the first is spent filling caches."""
    third = max(1, len(samples) // 3)
    middle, last = samples[third : 2 * third] or samples[:1], samples[-third:]

    def pair(figures: Sequence[float], others: Sequence[float]) -> list[float]:
        return [round(statistics.median(figures), 1), round(statistics.median(others), 1)]

    parts = samples[-1].memory_mib
    return {
        "p50_ms": pair([each.p50_ms for each in middle], [each.p50_ms for each in last]),
        "p99_ms": pair([each.p99_ms for each in middle], [each.p99_ms for each in last]),
        "lag": pair([each.lag for each in middle], [each.lag for each in last]),
        "outstanding": pair([each.outstanding for each in middle], [each.outstanding for each in last]),
        "memory_mib": {
            part: pair([each.memory_mib[part] for each in middle], [each.memory_mib[part] for each in last])
            for part in parts
        },
    }


async def _publish(bootstrap_servers: str) -> None:
    publisher = Publisher(Service.CLI, KafkaBroker(bootstrap_servers))
    await publisher.start()
    at = datetime.now(UTC)
    message = published(DOCUMENT, at)
    key = f"{message.name}@{message.version}"
    envelope = Envelope(id=key, type=topics.WORKFLOW_PUBLISHED.event_type, source="penstock/bench", time=at.isoformat())
    await publisher.send([encode(topics.WORKFLOW_PUBLISHED, message, envelope, key=key)])
    await publisher.stop()


if __name__ == "__main__":
    typer.run(main)

"""Owns `make bench`: speed on real Kafka and Postgres, driver included, medians of three runs."""

import asyncio
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.driver import Driver, Measured
from bench.processes import Processes
from bench.running import run
from bench.workflows import CHAIN, FAN_OUT, STEPS
from penstock.contracts import topics
from penstock.contracts.envelope import Envelope, encode
from penstock.contracts.topics import Service
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from penstock.workflow.publish import published
from services.local.options import Options
from services.local.services import add_services
from services.local.stack import LocalStack

RESULTS = Path(__file__).parent / "results"
OUTSTANDING_MAX = 2_000
IDLE_SECONDS = 20.0
SERVICES = ("orchestrator-0", "inference-0", "tool_executor-0", "worker-0", "gateway-0")

console = Console()


@dataclass(frozen=True, slots=True)
class Figure:
    """One scenario's median run."""

    scenario: str
    steps_per_second: float | None
    p50_ms: float | None
    p99_ms: float | None
    cores: dict[str, float]
    runs: int
    repeats: list[float]
    """The headline of each repeat: steps/s, or p50 in ms at a steady rate."""


def main(
    scenarios: Annotated[str, typer.Option(help="which of a, b, c, d")] = "abcd",
    repeats: Annotated[int, typer.Option(min=1, max=20)] = 3,
    runs: Annotated[int, typer.Option(help="workflows per repeat of scenario a", min=100)] = 10_000,
    seconds: Annotated[float, typer.Option(help="length of each repeat of scenario c", min=1)] = 15.0,
    save: Annotated[bool, typer.Option(help="write bench/results/*.json")] = True,
) -> None:
    """Measure the walking system: (a) a chain of 3 steps and (b) 1 + 10 side by side + 1 at saturation, (c) the chain
    at 60 workflows/s, (d) start, memory and idle CPU of the local stack.

    Example: python -m bench --scenarios a --repeats 1 --no-save
    """
    run(_bench(scenarios, repeats, runs, seconds, save=save))


async def _bench(scenarios: str, repeats: int, runs: int, seconds: float, *, save: bool) -> None:
    data = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    options = Options(model="simulated", task_modules=("bench.tasks",))
    stack = LocalStack(data, deployment=options.deployment)
    add_services(stack, options)
    report: dict[str, object] = {"machine": _machine(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        began = time.perf_counter()
        await stack.start()
        started_seconds = time.perf_counter() - began
        processes = Processes({name: part.pid for name, part in stack.parts.items() if part.pid is not None})
        driver = Driver(stack.bootstrap_servers, options.read_side_partitions, f"bench{int(time.time())}")
        await driver.start()
        await _publish(stack.bootstrap_servers)
        figures = await _load(driver, processes, scenarios, repeats, runs, seconds)
        report["figures"] = [asdict(figure) for figure in figures]
        _print_figures(figures)
        await driver.stop()
        if "d" in scenarios:
            report["stack"] = await _stack_figures(processes, started_seconds)
    finally:
        await stack.stop()
        shutil.rmtree(data, ignore_errors=True)
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")
        console.print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


async def _load(
    driver: Driver, processes: Processes, scenarios: str, repeats: int, runs: int, seconds: float
) -> list[Figure]:
    await driver.saturate(CHAIN.name, 1_000, OUTSTANDING_MAX)  # the first runs warm caches, plans and connections
    figures = []
    if "a" in scenarios:
        figures.append(
            await _repeat(
                "a: 3 steps, saturated",
                processes,
                repeats,
                lambda: driver.saturate(CHAIN.name, runs, OUTSTANDING_MAX),
                STEPS[CHAIN.name],
            )
        )
    if "b" in scenarios:
        figures.append(
            await _repeat(
                "b: 1 + 10 + 1 steps, saturated",
                processes,
                repeats,
                lambda: driver.saturate(FAN_OUT.name, runs // 4, OUTSTANDING_MAX // 4),
                STEPS[FAN_OUT.name],
            )
        )
    if "c" in scenarios:
        figures.append(
            await _repeat(
                "c: 3 steps, 60 workflows/s",
                processes,
                repeats,
                lambda: driver.pace(CHAIN.name, int(60 * seconds), 60.0),
                None,
            )
        )
    return figures


async def _repeat(
    scenario: str, processes: Processes, repeats: int, load: Callable[[], Awaitable[Measured]], steps: int | None
) -> Figure:
    measured: list[tuple[float, Measured, dict[str, float]]] = []
    for _ in range(repeats):
        processes.mark()
        result = await load()
        cores = processes.spent().shares(result.seconds)
        headline = result.percentile(0.5) if steps is None else result.runs * steps / result.seconds
        console.print(f"{scenario}: {headline:,.0f} {'ms p50' if steps is None else 'steps/s'}")
        measured.append((headline, result, cores))
    middle = statistics.median_low([headline for headline, _, _ in measured])
    headline, result, cores = next(each for each in measured if each[0] == middle)
    return Figure(
        scenario=scenario,
        steps_per_second=None if steps is None else round(headline, 1),
        p50_ms=round(result.percentile(0.5), 2),
        p99_ms=round(result.percentile(0.99), 2),
        cores=cores,
        runs=result.runs,
        repeats=[round(each, 2) for each, _, _ in measured],
    )


async def _stack_figures(processes: Processes, started_seconds: float) -> dict[str, object]:
    await asyncio.sleep(5)  # let the read side finish what the load left
    processes.mark()
    began = time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    idle = processes.spent().shares(time.perf_counter() - began)
    memory = {part: round(size) for part, size in processes.memory_mib().items()}
    services = sum(idle[name] for name in SERVICES)
    table = Table("part", "idle, % of a core", "memory, MiB", title=f"d: started in {started_seconds:.1f} s")
    for part in idle:
        if part != "driver":
            table.add_row(part, f"{100 * idle[part]:.2f}", f"{memory[part]:,}")
    console.print(table)
    console.print(f"all services together: {100 * services:.2f} % of a core when idle")
    return {
        "started_seconds": round(started_seconds, 2),
        "idle_cores": idle,
        "idle_cores_of_services": round(services, 4),
        "memory_mib": memory,
    }


async def _publish(bootstrap_servers: str) -> None:
    publisher = Publisher(Service.CLI, KafkaBroker(bootstrap_servers))
    await publisher.start()
    at = datetime.now(UTC)
    for definition in (CHAIN, FAN_OUT):
        message = published(definition, at)
        key = f"{message.name}@{message.version}"
        envelope = Envelope(
            id=key, type=topics.WORKFLOW_PUBLISHED.event_type, source="penstock/bench", time=at.isoformat()
        )
        await publisher.send([encode(topics.WORKFLOW_PUBLISHED, message, envelope, key=key)])
    await publisher.stop()


def _print_figures(figures: list[Figure]) -> None:
    table = Table("scenario", "steps/s", "p50 ms", "p99 ms", "cores by process", title="medians")
    for figure in figures:
        cores = ", ".join(
            f"{part} {share:.2f}" for part, share in sorted(figure.cores.items(), key=lambda c: -c[1]) if share >= 0.005
        )
        rate = "" if figure.steps_per_second is None else f"{figure.steps_per_second:,.0f}"
        table.add_row(figure.scenario, rate, f"{figure.p50_ms}", f"{figure.p99_ms}", cores)
    console.print(table)


def _machine() -> dict[str, object]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )  # git of the path, for a label
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    typer.run(main)

"""Owns `make bench-fairness`: what a flooding tenant and a batch backlog do to others, as ratios within one run.

The engine is simulated (a published roofline, `speed` times as fast as the hardware), everything else is real: Kafka,
the inference service, its queue and its gate. A batch backlog keeps the engine full all the time, so that what is
compared is the order and nothing else.
"""

import asyncio
import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.calls import MODEL, POOL, Calls, percentile
from bench.running import run
from penstock.contracts.messages import Lane
from services.local.options import Counts, Options
from services.local.services import add_services
from services.local.stack import LocalStack

RESULTS = Path(__file__).parent / "results"
TENANTS = 10
P99_RATIO_MAX = 1.5
BACKLOG = 10_000

console = Console()


def main(
    speed: Annotated[float, typer.Option(help="virtual seconds per second of the simulated engine", min=0.01)] = 4.0,
    seconds: Annotated[float, typer.Option(help="length of each measurement", min=5)] = 20.0,
    per_tenant: Annotated[float, typer.Option(help="requests per second of an ordinary tenant", min=0.01)] = 4.0,
    flood: Annotated[float, typer.Option(help="how many times that the flooding tenant sends", min=1)] = 100.0,
    save: Annotated[bool, typer.Option(help="write bench/results/fairness.json")] = True,
) -> None:
    """Measure what others notice of a flood, and how soon an interactive request behind a backlog begins.

    Example: python -m bench.fairness --speed 4
    """
    run(_bench(speed, seconds, per_tenant, flood, save=save))


async def _bench(speed: float, seconds: float, per_tenant: float, flood: float, *, save: bool) -> None:
    data = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    options = Options(
        model="simulated",
        counts=Counts(orchestrator=0, tool_executor=0, worker=0, gateway=0),
        service_environment={
            "inference": {
                "PENSTOCK_INFERENCE_MODEL": MODEL,
                "PENSTOCK_INFERENCE_SIMULATED_SPEED": str(speed),
                "PENSTOCK_INFERENCE_CONCURRENCY": "1024",
            }
        },
        pools=(POOL,),
    )
    stack = LocalStack(data, deployment=options.deployment)
    add_services(stack, options)
    try:
        await stack.start()
        async with Calls(stack.bootstrap_servers, options.home_partitions).running() as calls:
            report = await _measure(calls, seconds, per_tenant, flood)
    finally:
        await stack.stop()
        shutil.rmtree(data, ignore_errors=True)
    _print(report)
    if save:
        RESULTS.mkdir(exist_ok=True)
        report |= {"at": datetime.now(UTC).isoformat(timespec="seconds"), "speed": speed, "seconds": seconds}
        (RESULTS / "fairness.json").write_text(json.dumps(report, indent=2) + "\n")


async def _measure(calls: Calls, seconds: float, per_tenant: float, flood: float) -> dict[str, Any]:
    keeping_full = asyncio.create_task(_keep_full(calls))
    try:
        await _settled(calls)
        rate = await calls.rate(seconds / 2)
        console.print(f"the engine gives {rate:,.0f} requests/s, with {BACKLOG:,} in the batch lane")
        interactive = await _interactive(calls, seconds)
        others = {f"tenant-{number}": per_tenant for number in range(TENANTS - 1)}
        undisturbed = await _paced(calls, others | {"tenant-x": per_tenant}, seconds)
        disturbed = await _paced(calls, others | {"tenant-x": flood * per_tenant}, seconds)
    finally:
        keeping_full.cancel()
    ratios = {tenant: disturbed[tenant] / undisturbed[tenant] for tenant in others}
    return {
        "requests_per_second": rate,
        "interactive_queue_ms": interactive,
        "free_place_every_ms": 1000 / rate,
        "undisturbed_p99_ms": undisturbed,
        "disturbed_p99_ms": disturbed,
        "p99_ratio_worst": max(ratios.values()),
        "p99_ratio_all": disturbed["others"] / undisturbed["others"],
    }


async def _keep_full(calls: Calls) -> None:
    """There are always 10,000 batch requests waiting."""
    sent = 0
    while True:
        missing = BACKLOG - (sent - len(calls.answers["bulk"]))
        if missing > 0:
            calls.send("bulk", Lane.BATCH, missing)
            sent += missing
        await asyncio.sleep(0.2)


async def _settled(calls: Calls) -> None:
    """The control law has found its batch: the rate of answers does not grow any more."""
    best, since_best = 0.0, 0
    while since_best < 4:
        rate = await calls.rate(4.0)
        since_best = 0 if rate > 1.05 * best else since_best + 1
        best = max(best, rate)


async def _interactive(calls: Calls, seconds: float) -> dict[str, float]:
    """Single interactive requests into the full engine."""
    await calls.pace({"person": 5.0}, Lane.INTERACTIVE, seconds)
    await calls.until_answered({"person": int(5 * seconds) - 1}, 120)
    waits = [answer.queue_ms for answer in calls.answers["person"]]
    return {"p50": percentile(waits, 0.5), "p99": percentile(waits, 0.99), "max": max(waits)}


async def _paced(calls: Calls, rates: dict[str, float], seconds: float) -> dict[str, float]:
    """The p99 of each tenant from request to answer, and of all but the last together."""
    for tenant in rates:
        calls.answers[tenant].clear()
    await calls.pace(rates, Lane.STANDARD, seconds)
    others = list(rates)[:-1]
    await calls.until_answered({tenant: int(rates[tenant] * seconds) - 1 for tenant in others}, 300)
    p99 = {tenant: percentile([answer.total_ms for answer in calls.answers[tenant]], 0.99) for tenant in others}
    p99["others"] = percentile([answer.total_ms for tenant in others for answer in calls.answers[tenant]], 0.99)
    return p99


def _print(report: dict[str, Any]) -> None:
    table = Table("what", "measured", "aim", title="fairness")
    waits = report["interactive_queue_ms"]
    table.add_row(
        "interactive behind 10,000 batch: wait for the engine, p50 / p99 / max",
        f"{waits['p50']:.0f} / {waits['p99']:.0f} / {waits['max']:.0f} ms",
        f"a place is free every {report['free_place_every_ms']:.0f} ms",
    )
    table.add_row(
        "others' p99 under a flood, against undisturbed",
        f"{report['undisturbed_p99_ms']['others']:,.0f} → {report['disturbed_p99_ms']['others']:,.0f} ms, "
        f"x {report['p99_ratio_all']:.2f} (worst tenant x {report['p99_ratio_worst']:.2f})",
        f"x {P99_RATIO_MAX}",
    )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)

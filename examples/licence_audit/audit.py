"""Owns one audit from its request to its report, on whatever stack it is given."""

import asyncio
import contextlib
from datetime import datetime
from typing import Final

import httpx
from rich.console import Console

from examples.follow import Gateway
from examples.licence_audit.documents import Selection
from examples.licence_audit.progress import Progress
from examples.licence_audit.report import print_report, spent_by_document
from examples.licence_audit.watch import Watch
from examples.licence_audit.workflow import definition
from examples.submit import submit
from penstock.contracts.messages import RunFinished, RunRequested

CANCEL_SECONDS: Final = 5.0


async def audit(
    bootstrap_servers: str, gateway_url: str, selection: Selection, run_id: str, at: datetime, console: Console
) -> RunFinished:
    """Ask for a run on Kafka, follow it through the gateway, and print what came of it."""
    request = RunRequested(workflow=definition().name, input=selection.input(), run_id=run_id, labels={"from": "demo"})
    await submit(bootstrap_servers, definition(), request, at)
    console.print(f"Run {run_id} was requested on Kafka.", highlight=False)
    gateway = Gateway(gateway_url)
    try:
        finished = await _followed(gateway, run_id, Progress(total=len(selection.documents)), console)
        if finished.status == "completed":
            trace = await gateway.trace(run_id, finished.usage.model_calls)
            found = selection.found
            spent = spent_by_document(trace["steps"])
            print_report(console, finished, spent, found=len(found.documents), duplicates=found.duplicates)
        else:
            _print_failure(console, finished)
    except asyncio.CancelledError:
        await _cancel(gateway, run_id, console)
        raise
    finally:
        await gateway.close()
    return finished


async def _followed(gateway: Gateway, run_id: str, progress: Progress, console: Console) -> RunFinished:
    with Watch(console, progress) as watch:
        async with contextlib.aclosing(gateway.events(run_id)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    return event
                watch.show(progress.take(event))
    raise AssertionError("a stream of events ends with the run's end or an exception")


async def _cancel(gateway: Gateway, run_id: str, console: Console) -> None:
    """Nobody waits for the run any more: it must not go on spending."""
    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await gateway.cancel(run_id, "interrupted at the terminal")
        console.print(f"\nRun {run_id} was asked to cancel.", highlight=False)


def _print_failure(console: Console, finished: RunFinished) -> None:
    reason = "no reason given"
    if finished.error is not None:
        step = f" at {finished.error.step}" if finished.error.step else ""
        reason = f"{finished.error.code}{step}: {finished.error.message}"
    console.print(f"The run {finished.status}: {reason}", style="bold red", highlight=False, markup=False)

"""Owns tasks whose executions can be counted: each leaves a line in a ledger, whatever happens to its worker."""

import asyncio
import os
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock.workflow.task import Context, current, task

BEGUN: Final = "begun"
ENDED: Final = "ended"
NEVER_SECONDS: Final = 3600.0


@task(name="counted.work")
async def work(
    ledger: str,
    milliseconds: float = 0.0,
    value: Any = None,
    fail_before: int = 0,
    hang_before: int = 0,
    gate: str | None = None,
) -> dict[str, Any]:
    """Takes that long and returns `value`. Attempts before `fail_before` fail, those before `hang_before` hang.

    With a `gate`, a file that a test creates, it waits for that.
    """
    context = current()
    _write(ledger, BEGUN, context)
    if context.attempt < hang_before:
        await asyncio.sleep(NEVER_SECONDS)
    while gate is not None and not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - another process opens it
        await asyncio.sleep(0.02)
    await asyncio.sleep(milliseconds / 1000)
    if context.attempt < fail_before:
        raise RuntimeError(f"attempt {context.attempt} was told to fail")
    _write(ledger, ENDED, context)
    return {"step": context.step, "attempt": context.attempt, "value": value}


@task(name="counted.plain")
def plain(ledger: str, milliseconds: float = 0.0) -> str:
    """The same in a thread."""
    context = current()
    _write(ledger, BEGUN, context)
    threading.Event().wait(milliseconds / 1000)
    _write(ledger, ENDED, context)
    return context.step


@dataclass(frozen=True, slots=True)
class Executions:
    """What a ledger says."""

    begun: dict[str, list[str]]
    """Request ids of the executions that began, by "run step"."""
    ended: dict[str, int]
    """How many executions of a request id came to their end."""


def read_ledger(ledger: Path) -> Executions:
    """All executions so far."""
    begun: dict[str, list[str]] = defaultdict(list)
    ended: dict[str, int] = defaultdict(int)
    for line in ledger.read_text().splitlines():
        what, request_id, run_id, step = line.split("\t")
        if what == BEGUN:
            begun[f"{run_id} {step}"].append(request_id)
        else:
            ended[request_id] += 1
    return Executions(dict(begun), dict(ended))


def _write(ledger: str, what: str, context: Context) -> None:
    """One line in one write, which appending makes atomic among the processes of a machine."""
    line = f"{what}\t{context.request_id}\t{context.run_id}\t{context.step}\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)

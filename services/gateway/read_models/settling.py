"""Owns what ended runs come to: their cost, and how much of it was in vain; made beside the way of the records.

A record only marks its run as unsettled. Here such runs are taken, a number at a time, and their sums are made
anew from their entries, so that it does not matter how often, or whether a usage record came after the end.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import asyncpg

from penstock.runtime.postgres import AWAY, load_queries
from penstock.runtime.telemetry import logger
from services.gateway.read_models import ledger
from services.gateway.read_models.usage import usage_row
from services.gateway.read_models.waste import ABANDONED, FAILED_RUN, RETRY
from services.gateway.telemetry import LogEvent

RUNS_MAX: Final = 1_000
EVERY_SECONDS: Final = 2.0
AFTER: Final = timedelta(seconds=2)
"""What another gateway was writing when a run ended is there by then, as far as it knew nothing of the end."""

_SETTLE: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "settle.sql")
_COLUMNS: Final = (RETRY, ABANDONED, FAILED_RUN)

Moves = dict[Any, list[Decimal]]
"""By line: what is added to each column of waste."""


async def settle(pool: asyncpg.Pool, after: timedelta = AFTER) -> int:
    """Settles some runs that have been unsettled for so long; answers how many."""
    async with pool.acquire() as connection, connection.transaction():
        taken = await connection.fetch(_SETTLE["take_unsettled"], RUNS_MAX, after)
        if not taken:
            return 0
        runs = [row["run_key"] for row in taken]
        changed = await connection.fetch(_SETTLE["changed_waste"], runs, [row["status"] for row in taken])
        if changed:
            await _count_waste(connection, changed)
        await connection.execute(_SETTLE["settle_runs"], runs)
        return len(runs)


async def settle_for_ever(pool: asyncpg.Pool, stop: asyncio.Event) -> None:
    """Settles what ended, now and then, until the service stops."""
    log = logger("settling")
    while not stop.is_set():
        try:
            while not stop.is_set():
                if await settle(pool) < RUNS_MAX:
                    break
        except (asyncpg.PostgresError, *AWAY) as error:
            log.warning(LogEvent.SETTLING_FAILED, reason=repr(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY_SECONDS)


async def _count_waste(connection: Any, changed: Iterable[Any]) -> None:
    rows = list(changed)
    entries = [usage_row(row["body"]) for row in rows]
    lines: Moves = {}
    labels: Moves = {}
    moved = {id(entry): (row["was"], row["waste"]) for entry, row in zip(entries, rows, strict=True)}
    for entry in entries:
        _move(lines, entry.line, entry.cost, *moved[id(entry)])
    for line, entry in await ledger.label_lines(connection, [entry for entry in entries if entry.labels]):
        _move(labels, line, entry.cost, *moved[id(entry)])
    for statement, moves in (("add_waste", lines), ("add_label_waste", labels)):
        if moves:
            listed = ((*line, *(format(cost, "f") for cost in moves[line])) for line in sorted(moves))
            await connection.execute(_SETTLE[statement], *(list(column) for column in zip(*listed, strict=True)))
    await connection.execute(
        _SETTLE["set_waste"],
        [row["run_key"] for row in rows],
        [row["request_id"] for row in rows],
        [row["waste"] for row in rows],
    )


def _move(moves: Moves, line: Any, cost: Decimal, was: int, due: int) -> None:
    columns = moves.setdefault(line, [Decimal(0)] * len(_COLUMNS))
    for place, waste in enumerate(_COLUMNS):
        columns[place] += cost * ((waste == due) - (waste == was))

"""Owns writing a batch: one transaction, set-wise, harmless when it is done again."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import asyncpg

from penstock.runtime.postgres import load_queries
from services.gateway.news import CHANNEL, payloads
from services.gateway.read_models import ledger
from services.gateway.read_models.fold import Batch, RunRow

_WRITE: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "write.sql")

SESSION: Final = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
"""What is written is found by its key. A plan may be made while the tables are empty, and kept: left to itself it would
read them whole, batch after batch, until somebody analyses them."""

REFUSED_BY_DATABASE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.UntranslatableCharacterError,
)
"""What no second try can cure: something in the rows themselves. Everything else is waited out."""


async def write(pool: asyncpg.Pool, batch: Batch, writer: str = "") -> None:
    """All of the batch or nothing. The streams of every gateway but the `writer` hear of it."""
    if not (batch.runs or batch.usage or batch.stretches or batch.definitions or batch.aliases):
        return
    try:
        await _write(pool, batch, writer, again=False)
    except asyncpg.UniqueViolationError:
        # Some of it was written before. That is rare, and looking for it each time costs a fifth of the writing.
        await _write(pool, batch, writer, again=True)


async def _write(pool: asyncpg.Pool, batch: Batch, writer: str, *, again: bool) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await _unsettle(connection, batch)
        await _write_runs(connection, batch, again=again)
        if batch.usage:
            await ledger.write_usage(connection, batch, again=again)
        if batch.stretches:
            await ledger.write_stretches(connection, list(batch.stretches.values()))
        if batch.definitions:
            await connection.execute(_WRITE["insert_definitions"], *_columns(batch.definitions))
        if batch.aliases:
            await connection.execute(_WRITE["upsert_aliases"], *_columns(batch.aliases))
        told = list(payloads(writer, batch.runs, definitions=bool(batch.definitions or batch.aliases)))
        if told:
            await connection.execute(_WRITE["tell"], CHANNEL, told)


async def _unsettle(connection: Any, batch: Batch) -> None:
    """What comes after a run's end changes what the run came to. Before this batch's own ends are written."""
    if batch.wasted:
        runs, requests = zip(*batch.wasted, strict=True)
        await connection.execute(_WRITE["insert_wasted"], runs, requests, list(batch.wasted.values()))
    late = {entry.run_key for entry in batch.usage.values()} | {run for run, _ in batch.wasted}
    if late:
        await connection.execute(_WRITE["unsettle_runs"], list(late))


async def _write_runs(connection: Any, batch: Batch, *, again: bool) -> None:
    if batch.progress:
        progress = [(run_key, sequence, body) for (run_key, sequence), body in batch.progress.items()]
        await connection.execute(_WRITE["insert_progress_again" if again else "insert_progress"], progress)
    if batch.runs:
        # In the order of their keys: two instances that meet wait for each other, never in a circle.
        runs = sorted(batch.runs.values(), key=lambda row: row.run_key.bytes)
        await connection.execute(_WRITE["upsert_runs"], [_run_row(run) for run in runs])
    if batch.ends:
        ended = sorted(batch.ends, key=lambda key: key.bytes)
        statuses, finished, bodies = zip(*(batch.ends[key] for key in ended), strict=True)
        await connection.execute(_WRITE["upsert_ends"], ended, statuses, finished, bodies)


def _run_row(run: RunRow) -> tuple[Any, ...]:
    return (
        run.run_key,
        run.tenant,
        run.run_id,
        run.workflow,
        run.version,
        run.labels,
        run.started_at,
        run.sequence,
        run.status,
        run.running_at,
        run.updated_at,
    )


def _columns(rows: Mapping[tuple[str, str], tuple[datetime, bytes]]) -> tuple[list[Any], ...]:
    """Of definitions by name and version, or of aliases by name and alias."""
    listed = sorted(rows.items())
    return (
        [name for (name, _), _ in listed],
        [second for (_, second), _ in listed],
        [at for _, (at, _) in listed],
        [body for _, (_, body) in listed],
    )

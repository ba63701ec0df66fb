"""Owns the look into an orchestrator's Postgres: whether its state is whole when there is nothing left to do."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final

import asyncpg

from penstock.runtime.postgres import load_queries

PAUSE_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 60.0

_SQL: Final = load_queries(Path(__file__).with_name("state.sql"))


async def settled(postgres_url: str, run_ids: Collection[str], seconds: float = SETTLE_SECONDS) -> None:
    """Every run has its one row and its end, no step is awaited, no alarm is set, the outbox is empty."""
    connection = await asyncpg.connect(postgres_url)
    try:
        left: dict[str, int] = {}
        try:
            async with asyncio.timeout(seconds):
                while left := _wrong(await connection.fetchrow(_SQL["unsettled"])):  # noqa: ASYNC110 - nothing signals
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            raise AssertionError(f"the orchestrator still has {left} after {seconds:g} s") from None
        assert not (wrong := _wrong(await connection.fetchrow(_SQL["contradictions"]))), wrong
        assert await connection.fetchval(_SQL["runs"], list(run_ids)) == len(run_ids)
    finally:
        await connection.close()


def _wrong(row: asyncpg.Record | None) -> dict[str, int]:
    return {name: count for name, count in (row or {}).items() if count}

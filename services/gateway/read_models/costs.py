"""Owns reading the ledger: sums by what is asked for, what runs came to, the time of engines, the pace of lanes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import asyncpg

from penstock.runtime.postgres import load_queries
from services.gateway.read_models.reconcile import Life

_COSTS: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "costs.sql")

ENTRIES_READERS_MAX: Final = 2
ENTRIES_AT_ONCE: Final = 500
LIVES_MAX: Final = 20_000
RUN_LINES_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class CostQuestion:
    """Which costs are asked for. `label` is the label whose values are one of the columns."""

    by: Sequence[str]
    since: datetime
    until: datetime
    label: str | None = None
    tenant: str | None = None
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """What one request of a lane took of late, on average; `requests` were measured."""

    requests: int
    gpu_seconds: Decimal
    cost: Decimal
    currency: str
    simulated: bool


class Ledger:
    """The ledger's questions."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._exports = asyncio.Semaphore(ENTRIES_READERS_MAX)

    async def costs(self, question: CostQuestion, limit: int, offset: int = 0) -> list[dict[str, Any]]:
        """The hours' sums, the dearest first; a label's value under `label`."""
        arguments = (list(question.by), question.since, question.until, question.tenant, question.workflow)
        if question.label is None:
            rows = await self._pool.fetch(_COSTS["read_costs"], *arguments, limit, offset)
        else:
            rows = await self._pool.fetch(_COSTS["read_label_costs"], *arguments, limit, offset, question.label)
        return [dict(row) for row in rows]

    async def runs(self, question: CostQuestion) -> list[dict[str, Any]]:
        """What the runs that ended in the period came to."""
        rows = await self._pool.fetch(
            _COSTS["read_run_costs"],
            list(question.by),
            question.since,
            question.until,
            question.tenant,
            question.workflow,
            RUN_LINES_MAX,
            question.label,
        )
        return [dict(row) for row in rows]

    async def engine_time(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """What the engines' time came to."""
        return [dict(row) for row in await self._pool.fetch(_COSTS["read_engine_time"], since, until)]

    async def lives(self, since: datetime, until: datetime) -> list[Life]:
        """The lives of engines that touch the period, whole."""
        return [Life(**dict(row)) for row in await self._pool.fetch(_COSTS["read_lives"], since, until, LIVES_MAX)]

    async def entries(self, since: datetime, until: datetime) -> AsyncIterator[tuple[str, bytes]]:
        """The bodies of the engines' accounts of a period, then of usage records; one at a time.

        Holds a connection from the first to the last, and is one of ENTRIES_READERS_MAX at a time.
        """
        async with self._exports, self._pool.acquire() as connection, connection.transaction(readonly=True):
            async for row in connection.cursor(_COSTS["read_accounts"], since, until, prefetch=ENTRIES_AT_ONCE):
                yield "engine", row["body"]
            async for row in connection.cursor(_COSTS["read_entries"], since, until, prefetch=ENTRIES_AT_ONCE):
                yield "usage", row["body"]

    async def pace(self, since: datetime) -> dict[tuple[str, str], Pace]:
        """By pool and lane. Of several currencies, or of simulated and real, the one with most requests."""
        found: dict[tuple[str, str], Pace] = {}
        for row in sorted(await self._pool.fetch(_COSTS["read_pace"], since), key=lambda row: int(row["requests"])):
            requests = row["requests"]
            found[row["pool"], row["lane"]] = Pace(
                requests,
                Decimal(row["gpu_ns"]) / requests / 1_000_000_000,
                Decimal(row["cost"]) / requests,
                row["currency"],
                row["simulated"],
            )
        return found

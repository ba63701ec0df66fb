"""Owns reading the tables: pages of runs, one run with its steps, costs, definitions."""

import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from penstock.runtime.postgres import load_queries

_READ: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "read.sql")

PROGRESS_PAGE: Final = 500
CHANGES_MAX: Final = 20_000
USAGE_MAX: Final = 20_000
NAMES_MAX: Final = 10_000


class BadCursorError(ValueError):
    """A cursor that this gateway did not make."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page of runs ends."""

    started_at: datetime
    run_key: UUID

    def __str__(self) -> str:
        content = orjson.dumps([self.started_at.isoformat(), str(self.run_key)])
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises BadCursorError."""
        try:
            started_at, run_key = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            return cls(datetime.fromisoformat(started_at), UUID(run_key))
        except (ValueError, TypeError) as error:
            raise BadCursorError("the cursor is not one of ours") from error


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a page holds."""

    tenant: str
    workflow: str | None = None
    status: str | None = None
    labels: Mapping[str, str] | None = None


class Reader:
    """The read side's questions."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def runs(self, which: RunFilter, after: Cursor | None, limit: int) -> list[dict[str, Any]]:
        """One page, newest first; each with its newest progress record under `progress`."""
        labels = orjson.dumps(dict(which.labels or {})).decode()
        position = (None, None) if after is None else (after.started_at, after.run_key)
        rows = await self._pool.fetch(
            _READ["list_runs"], which.tenant, which.workflow, which.status, labels, *position, limit
        )
        return [_with_documents(row, "progress") for row in rows]

    async def run(self, run_key: UUID) -> dict[str, Any] | None:
        """One run with its end under `ending`."""
        row = await self._pool.fetchrow(_READ["read_run"], run_key)
        return None if row is None else _with_documents(row, "ending")

    async def progress(self, run_key: UUID, after: int) -> list[tuple[int, bytes]]:
        """A page of a run's progress records after a sequence, in order."""
        rows = await self._pool.fetch(_READ["read_progress"], run_key, after, PROGRESS_PAGE)
        return [(row["sequence"], row["body"]) for row in rows]

    async def all_progress(self, run_key: UUID) -> AsyncIterator[dict[str, Any]]:
        """All progress records of a run, page by page."""
        after = -1
        while page := await self.progress(run_key, after):
            for sequence, body in page:
                after = sequence
                yield orjson.loads(body)

    async def usage(self, run_key: UUID) -> list[dict[str, Any]]:
        """The ledger's entries of a run."""
        rows = await self._pool.fetch(_READ["read_usage"], run_key, USAGE_MAX)
        return [orjson.loads(row["body"]) for row in rows]

    async def accepted(self, run_key: UUID) -> dict[str, Any] | None:
        """A request that was accepted at this door."""
        row = await self._pool.fetchrow(_READ["read_accepted"], run_key)
        return None if row is None else dict(row)

    async def costs_by_run(
        self, since: datetime, until: datetime, tenant: str, workflow: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """The newest runs' sums."""
        rows = await self._pool.fetch(_READ["read_costs_by_run"], since, until, tenant, workflow, limit)
        return [dict(row) for row in rows]

    async def definitions(self, limit: int) -> list[dict[str, Any]]:
        """All versions, the newest of each name first."""
        return [dict(row) for row in await self._pool.fetch(_READ["list_definitions"], limit)]

    async def definition(self, name: str, version: str | None) -> dict[str, Any] | None:
        """One version, the newest where none is named; its message under `body`."""
        row = await self._pool.fetchrow(_READ["read_definition"], name, version)
        return None if row is None else _with_documents(row, "body")

    async def aliases(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        """The aliases of all workflows, or of one; each with its message under `body`."""
        return [_with_documents(row, "body") for row in await self._pool.fetch(_READ["list_aliases"], name, limit)]

    async def alias(self, name: str, alias: str) -> dict[str, Any] | None:
        """What one alias means; its message under `body`."""
        row = await self._pool.fetchrow(_READ["read_alias"], name, alias)
        return None if row is None else _with_documents(row, "body")

    async def names(self) -> list[str]:
        """The workflows there are."""
        return [row["name"] for row in await self._pool.fetch(_READ["list_names"], NAMES_MAX)]


def _with_documents(row: asyncpg.Record, name: str) -> dict[str, Any]:
    found = dict(row)
    found[name] = None if found[name] is None else orjson.loads(found[name])
    if "labels" in found:
        found["labels"] = orjson.loads(found["labels"])
    return found

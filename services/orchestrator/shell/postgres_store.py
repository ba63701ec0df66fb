"""Owns the orchestrator's memory in Postgres: one statement a batch, state and offsets together."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

import asyncpg

from penstock.runtime.errors import Fenced, Unavailable
from penstock.runtime.postgres import AWAY, load_queries
from services.orchestrator.core.state import Run
from services.orchestrator.shell import rows
from services.orchestrator.shell.store import Alarm, Batch, Claim, OutboxRow, Position, RunTakenError, Slice, SliceClaim

_FENCED_SQLSTATE = "PS001"

Pool = asyncpg.Pool
Connection = Any
"""A pooled connection; asyncpg's proxy type has no public name."""


def commit_statement(sql: Mapping[str, str], parts: Sequence[str]) -> str:
    """The statement of a batch that has these parts; each has one parameter, in their order."""
    numbered = (sql[f"part_{name}"].replace("$1", f"${number}") for number, name in enumerate(parts, start=1))
    return sql["commit_batch"].replace("{parts}", ",\n".join(numbered))


class PostgresStore:
    """Implements Store. Every method is one round trip, `load` two where it finds a run."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._sql = load_queries(files("services.orchestrator.shell") / "queries.sql")
        self._commits: dict[tuple[str, ...], str] = {}
        """Statements by their parts. Most batches of a load are alike: what they have none of costs nothing."""

    async def claim(self, homes: Collection[int], topics: Collection[str]) -> Claim:
        """See Store."""
        numbers = sorted(homes)
        async with self._connection() as connection, connection.transaction():
            positions = await connection.fetch(self._sql["claim_homes"], numbers, sorted(topics))
            outbox = await connection.fetch(self._sql["outbox_of_homes"], numbers)
            alarms = await connection.fetch(self._sql["alarms_of_homes"], numbers)
        return Claim(
            positions={
                (row["home"], row["topic"]): Position(row["next_offset"], row["owner_epoch"]) for row in positions
            },
            outbox=[(row["home"], row["id"], row["records"]) for row in outbox],
            alarms=[Alarm(rows.plain_uuid(row["run_key"]), row["home"], row["due_at_ms"]) for row in alarms],
        )

    async def load(self, keys: Collection[UUID]) -> dict[UUID, Run]:
        """See Store."""
        async with self._connection() as connection:
            found = await connection.fetch(self._sql["load_runs"], list(keys))
            if not found:
                return {}
            runs = {run.key: run for run in map(rows.run_from_row, found)}
            for row in await connection.fetch(self._sql["load_steps"], list(runs)):
                rows.add_step(runs[row["run_key"]], row)
        return runs

    async def commit(self, batch: Batch) -> list[OutboxRow]:
        """See Store."""
        parts = rows.batch_parts(batch)
        names = tuple(name for name, _ in parts)
        statement = self._commits.get(names)
        if statement is None:
            statement = self._commits[names] = commit_statement(self._sql, names)
        async with self._connection() as connection:
            written = await connection.fetch(statement, *(given for _, given in parts))
        return [(row["home"], row["id"]) for row in written if row["home"] is not None]

    async def claim_slices(self, claims: Sequence[SliceClaim]) -> list[Slice]:
        """See Store."""
        async with self._connection() as connection:
            given = await connection.fetch(self._sql["claim_slices"], *rows.claim_columns(claims))
        return [rows.slice_from_row(row) for row in given]

    async def delete_outbox(self, sent: Collection[OutboxRow]) -> None:
        """See Store."""
        async with self._connection() as connection:
            await connection.execute(self._sql["delete_outbox"], [home for home, _ in sent], [row for _, row in sent])

    async def delete_finished_runs(self, before_ms: int, runs_max: int) -> int:
        """See Store."""
        async with self._connection() as connection:
            deleted: int = await connection.fetchval(self._sql["delete_finished_runs"], before_ms, runs_max)
        return deleted

    async def definitions(self) -> list[tuple[str, str, bytes]]:
        """See Store."""
        async with self._connection() as connection:
            found = await connection.fetch(self._sql["definitions"])
        return [(row["name"], row["version"], row["definition"].encode()) for row in found]

    async def add_definition(self, name: str, version: str, definition: bytes, published_at_ms: int) -> bytes:
        """See Store."""
        published_at = datetime.fromtimestamp(published_at_ms / 1000, UTC)
        kept: str | None = None
        while kept is None:
            # None: another instance added it between the two halves of the statement. Its row is visible now.
            async with self._connection() as connection:
                kept = await connection.fetchval(
                    self._sql["add_definition"], name, version, definition.decode(), published_at
                )
        return kept.encode()

    async def broadcast_offset(self, topic: str) -> int:
        """See Store."""
        async with self._connection() as connection:
            offset: int | None = await connection.fetchval(self._sql["broadcast_offset"], topic)
        return offset or 0

    async def advance_broadcast(self, topic: str, next_offset: int) -> None:
        """See Store."""
        async with self._connection() as connection:
            await connection.execute(self._sql["advance_broadcast"], topic, next_offset)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except asyncpg.UniqueViolationError as error:
            raise RunTakenError(str(error)) from error
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
            raise RunTakenError(str(error)) from error
        except AWAY as error:
            raise Unavailable(f"Postgres: {error}") from error
        except asyncpg.PostgresError as error:
            if error.sqlstate == _FENCED_SQLSTATE:
                raise Fenced(str(error)) from error
            raise

"""Owns the way to Postgres: the pool, numbered migrations, named statements out of .sql files."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

import asyncpg
from asyncpg.protocol import protocol

from penstock.runtime.errors import PenstockError, SettingsError, Unavailable
from penstock.runtime.telemetry import LogEvent, logger

CONNECT_SECONDS = 10.0
RETRY_SECONDS_MAX = 5.0
MIGRATION_SECONDS = 3_600.0
"""How long a migration may take, or another instance's be waited for: it may have to read a large table."""
MIGRATION_LOCK = 7_351_882_117
"""The advisory lock all instances of a service take before they migrate."""

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
    # The server's last words, come between two messages of ours, leave the client in a state it cannot go on from.
    asyncpg.InternalClientError,
)
"""What asyncpg raises when Postgres is away rather than unhappy with a statement."""

ARRAYS = (list, tuple)
"""What an array parameter may be. asyncpg asks each element of an array whether it is an array itself, by two abstract
base classes: half of the time that it takes to send a batch's rows. Asked by these types it is a tenth of that."""
vars(protocol).update(IterableABC=ARRAYS, SizedABC=ARRAYS)

_NAME = re.compile(r"^--\s*(?P<name>[a-z][a-z0-9_]*):\s*(?P<purpose>\S.*)$", re.MULTILINE)
_MIGRATION = re.compile(r"^(?P<number>\d{4})_[a-z0-9_]+\.sql$")


async def connect_pool(
    url: str,
    *,
    connections_max: int = 8,
    setup: Callable[[asyncpg.Connection], Coroutine[None, None, None]] | None = None,
    statement_seconds: float = 30.0,
    server_settings: Mapping[str, str] | None = None,
    stop: asyncio.Event | None = None,
) -> asyncpg.Pool:
    """A pool that has connected once. Waits with back-off while Postgres is away, until `stop` (then Unavailable)."""
    log = logger("postgres")
    delay = 0.1
    while True:
        pool = asyncpg.create_pool(
            url,
            init_size=1,
            min_size=0,  # what is asked for connects again; asyncpg's own attempts fill the log with tracebacks
            max_size=connections_max,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds,
            init=setup,
            reset=_nothing_to_reset,
            server_settings=dict(server_settings or {}),
        )
        try:
            return await pool
        except asyncpg.ClientConfigurationError as error:
            pool.terminate()
            raise SettingsError(f"PENSTOCK_POSTGRES_URL: {error}") from error  # no wait makes it right
        except AWAY as error:
            log.warning(LogEvent.POSTGRES_AWAITED, url=without_password(url), error=repr(error))
            pool.terminate()
        if stop is not None and await _stopped_within(stop, delay):
            raise Unavailable("stopped before Postgres answered")
        if stop is None:
            await asyncio.sleep(delay)
        delay = min(delay * 2, RETRY_SECONDS_MAX)


async def _nothing_to_reset(connection: asyncpg.Connection) -> None:
    """Sessions keep no state here; asyncpg's own reset is a round trip after every use of a connection."""
    del connection


async def migrate(pool: asyncpg.Pool, folder: Traversable | Path) -> list[str]:
    """Apply the numbered files that this database has not seen, each in a transaction; answers their names."""
    files = _sql_files(folder)
    statements = load_queries(Path(__file__).with_name("migration.sql"))
    applied: list[str] = []
    async with pool.acquire() as connection:
        await connection.execute(statements["lock_migrations"], MIGRATION_LOCK, timeout=MIGRATION_SECONDS)
        try:
            await connection.execute(statements["create_migrations"])
            done = {row["number"] for row in await connection.fetch(statements["applied_migrations"])}
            for entry in files:
                match = _MIGRATION.match(entry.name)
                if match is None:
                    raise PenstockError(f"{entry.name}: a migration is named 0001_what_it_does.sql")
                number = int(match["number"])
                if number in done:
                    continue
                async with connection.transaction():
                    await connection.execute(entry.read_text(), timeout=MIGRATION_SECONDS)
                    await connection.execute(statements["record_migration"], number, entry.name)
                applied.append(entry.name)
                logger("postgres").info(LogEvent.MIGRATION_APPLIED, name=entry.name)
        finally:
            await connection.execute(statements["unlock_migrations"], MIGRATION_LOCK)
    return applied


def load_queries(source: Traversable | Path) -> Mapping[str, str]:
    """The statements of a .sql file (or of all in a folder) by name: `-- name: what it is for`, then the statement."""
    if source.is_dir():
        queries: dict[str, str] = {}
        for entry in _sql_files(source):
            for name, text in load_queries(entry).items():
                if name in queries:
                    raise PenstockError(f"{entry.name}: a second statement named {name}")
                queries[name] = text
        return queries
    return _statements(source.read_text(), source.name)


def _sql_files(folder: Traversable | Path) -> list[Traversable | Path]:
    entries: Iterable[Traversable | Path] = folder.iterdir()
    return sorted((each for each in entries if each.name.endswith(".sql")), key=lambda each: each.name)


def _statements(text: str, file: str) -> dict[str, str]:
    heads = list(_NAME.finditer(text))
    queries: dict[str, str] = {}
    for index, head in enumerate(heads):
        end = heads[index + 1].start() if index + 1 < len(heads) else len(text)
        statement = text[head.end() : end].strip().removesuffix(";")
        if not statement:
            raise PenstockError(f"{file}: {head['name']} has no statement")
        if head["name"] in queries:
            raise PenstockError(f"{file}: a second statement named {head['name']}")
        queries[head["name"]] = statement
    return queries


def without_password(url: str) -> str:
    """A database's address as it may stand in a log line."""
    return re.sub(r"(//[^:/@]+):[^@]*@", r"\1@", url)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True

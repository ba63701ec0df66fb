"""Owns the promise that what a batch costs the read side does not grow with its tables: none is read whole."""

import re
from collections.abc import AsyncIterator
from importlib.resources import files

import asyncpg
import pytest

from penstock.runtime.postgres import connect_pool, load_queries, migrate
from services.gateway.read_models.store import SESSION
from services.local.fixtures import SharedStack

# take_unsettled is not among them: it reads a queue from its beginning.
STATEMENTS = {
    "write.sql": ("insert_progress_again", "upsert_runs", "upsert_ends", "insert_wasted", "unsettle_runs"),
    "ledger.sql": ("insert_usage_again", "insert_repeats", "add_costs", "add_label_costs", "read_label_values"),
    "settle.sql": ("changed_waste", "set_waste", "add_waste", "add_label_waste", "settle_runs"),
}


@pytest.fixture(scope="module")
async def database(stack: SharedStack) -> AsyncIterator[asyncpg.Pool]:
    pool = await connect_pool(await stack.new_database(), server_settings=SESSION)
    await migrate(pool, files("services.gateway") / "migrations")
    yield pool
    await pool.close()


@pytest.mark.stack
@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in STATEMENTS.items() for name in names])
async def test_the_statement_finds_rows_by_their_keys(database: asyncpg.Pool, file: str, name: str) -> None:
    # given empty tables, which are what a plan may be made for
    statement = load_queries(files("services.gateway") / "sql" / file)[name]

    # when it is planned, whatever its arguments
    arguments = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d+)", statement)))
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE {name} AS {statement}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE {name}({arguments})")

    # then no table is read whole
    assert re.findall(r"Seq Scan on (\w+)", "\n".join(row[0] for row in rows)) == []

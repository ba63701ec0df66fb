"""Owns the promise that what a batch costs does not grow with the number of runs: no statement reads a table whole."""

import re
from importlib.resources import files

import pytest

from penstock.runtime.postgres import connect_pool, load_queries, migrate
from services.local.fixtures import SharedStack
from services.orchestrator.shell.postgres_store import commit_statement
from services.orchestrator.shell.process import SESSION

SQL = load_queries(files("services.orchestrator.shell") / "queries.sql")
PARTS = [name.removeprefix("part_") for name in SQL if name.startswith("part_")]
STATEMENTS = {
    **{name: SQL[name] for name in ("load_runs", "load_steps", "delete_outbox", "outbox_of_homes", "alarms_of_homes")},
    "a batch of everything": commit_statement(SQL, PARTS),
    **{f"a batch that is {part}": commit_statement(SQL, (*PARTS[:2], part)) for part in PARTS[2:]},
}


@pytest.mark.stack
@pytest.mark.parametrize("name", STATEMENTS)
async def test_the_statement_finds_rows_by_their_keys(stack: SharedStack, name: str) -> None:
    # given empty tables, which are what the statement's one plan is made for
    pool = await connect_pool(await stack.new_database(), server_settings=SESSION)
    await migrate(pool, files("services.orchestrator") / "migrations")
    statement = STATEMENTS[name]

    # when it is planned, whatever its arguments
    arguments = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d+)", statement)))
    async with pool.acquire() as connection:
        await connection.execute(f"PREPARE planned AS {statement}")
        rows = await connection.fetch(f"EXPLAIN EXECUTE planned({arguments})")
    await pool.close()

    # then every table is reached by an index
    plan = "\n".join(row[0] for row in rows)
    assert re.findall(r"Seq Scan on (\w+)", plan) == []
    assert "Index" in plan

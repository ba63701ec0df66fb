"""Postgres: statements by name, migrations once and in order."""

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from penstock.runtime.errors import PenstockError
from penstock.runtime.postgres import connect_pool, load_queries, migrate, without_password


def test_statements_are_found_by_name(tmp_path: Path) -> None:
    """Given a file of named statements, when it is loaded, then each is there without its comment."""
    (tmp_path / "runs.sql").write_text("-- find_run: by its key\nSELECT 1;\n\n-- add_run: a new one\nINSERT\nINTO x;\n")

    assert load_queries(tmp_path) == {"find_run": "SELECT 1", "add_run": "INSERT\nINTO x"}


def test_two_statements_of_one_name_are_refused(tmp_path: Path) -> None:
    """Given one name twice in a folder, when it is loaded, then that is an error."""
    (tmp_path / "a.sql").write_text("-- same: one\nSELECT 1")
    (tmp_path / "b.sql").write_text("-- same: two\nSELECT 2")

    with pytest.raises(PenstockError, match="same"):
        load_queries(tmp_path)


def test_no_password_in_a_log_line() -> None:
    """Given a URL with a password, then what is logged has none."""
    assert without_password("postgresql://me:se:cret@h:1/d") == "postgresql://me@h:1/d"


@pytest.mark.stack
async def test_migrations_are_applied_once_and_in_order(stack: Any, tmp_path: Path) -> None:
    """Given two migrations, when a database migrates twice, then each ran once; a third one added later runs alone."""
    (tmp_path / "0002_fill.sql").write_text("INSERT INTO thing VALUES (1);")
    (tmp_path / "0001_make.sql").write_text("CREATE TABLE thing (n int); CREATE TABLE other (n int);")
    pool = await connect_pool(await stack.new_database(), connections_max=2)
    try:
        assert await migrate(pool, tmp_path) == ["0001_make.sql", "0002_fill.sql"]
        assert await migrate(pool, tmp_path) == []
        (tmp_path / "0003_break.sql").write_text("INSERT INTO thing VALUES (2); SELECT * FROM nothing;")
        with pytest.raises(asyncpg.UndefinedTableError):
            await migrate(pool, tmp_path)
        assert await pool.fetchval("SELECT count(*) FROM thing") == 1
    finally:
        await pool.close()


@pytest.mark.stack
async def test_a_migration_may_take_longer_than_a_statement(stack: Any, tmp_path: Path) -> None:
    """Given a migration that reads a large table, when a service's statements are bounded, then it is not."""
    (tmp_path / "0001_large.sql").write_text("DO 'BEGIN PERFORM pg_sleep(0.5); END';")
    pool = await connect_pool(await stack.new_database(), connections_max=1, statement_seconds=0.25)
    try:
        assert await migrate(pool, tmp_path) == ["0001_large.sql"]
    finally:
        await pool.close()


@pytest.mark.stack
async def test_what_is_an_array_is_told_by_its_type(stack: Any) -> None:
    """Given lists and tuples, when they are sent as arrays, then they arrive; of a set that is not even asked."""
    pool = await connect_pool(await stack.new_database(), connections_max=1)
    try:
        arrived = await pool.fetchrow(
            "SELECT $1::text[], $2::bytea[], $3::int[]", ("a", None), [b"b"], [[1, 2], [3, 4]]
        )
        assert tuple(arrived or ()) == (["a", None], [b"b"], [[1, 2], [3, 4]])
        with pytest.raises(asyncpg.DataError, match="sized iterable"):
            await pool.fetchrow("SELECT $1::int[]", {1, 2})
    finally:
        await pool.close()

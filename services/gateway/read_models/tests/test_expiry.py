"""Owns what is forgotten, and when: each kind of row by its own retention, on real Postgres."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from penstock.contracts import ids
from penstock.runtime.postgres import connect_pool, load_queries, migrate
from services.gateway.read_models import expiry, store
from services.gateway.read_models.expiry import expire, retentions
from services.gateway.read_models.fold import fold
from services.gateway.read_models.tests.test_read_models import NOON, story
from services.gateway.settings import GatewaySettings
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

GATEWAY = Path(__file__).parents[2]
ACCEPT = load_queries(GATEWAY / "sql" / "accept.sql")
DAY = timedelta(days=1)
LEDGER = ("usage_entry", "cost_hour")
RUNS = ("run", "run_progress", "run_end")
ACCEPTED = ("accepted_request", "idempotency_key")


def settings(**fields: Any) -> GatewaySettings:
    return GatewaySettings(postgres_url="postgresql://nowhere", **fields)


@pytest.fixture
async def pool(stack: SharedStack) -> AsyncIterator[asyncpg.Pool]:
    """A database that holds two runs of NOON with what they used, and two requests."""
    pool = await connect_pool(await stack.new_database())
    await migrate(pool, GATEWAY / "migrations")
    for run_id in ("first", "second"):
        await store.write(pool, fold(story(run_id).records)[0])
        key = ids.run_key("default", run_id)
        await pool.execute(ACCEPT["accept_request"], key, "default", run_id, "audit", b"digest", NOON)
        await pool.execute(ACCEPT["claim_key"], "default", run_id, b"digest", run_id, NOON)
    yield pool
    await pool.close()


async def left(pool: asyncpg.Pool) -> set[str]:
    """The tables that hold anything."""
    tables = (*RUNS, *LEDGER, *ACCEPTED)
    return {name for name in tables if await pool.fetchval(f"SELECT count(*) FROM {name}")}


@pytest.mark.parametrize(
    ("later", "remains"),
    [
        (timedelta(hours=23), {*RUNS, *LEDGER, *ACCEPTED}),
        (timedelta(hours=25), {*RUNS, *LEDGER}),
        (29 * DAY, {*RUNS, *LEDGER}),
        (31 * DAY, {*LEDGER}),
        (399 * DAY, {*LEDGER}),
        (402 * DAY, set()),
    ],
)
async def test_each_kind_of_row_is_kept_as_long_as_its_setting_says(
    pool: asyncpg.Pool, later: timedelta, remains: set[str]
) -> None:
    await expire(pool, settings(), NOON + later)

    assert await left(pool) == remains


async def test_a_run_that_changed_lately_is_kept_however_long_ago_it_began(pool: asyncpg.Pool) -> None:
    again = story("second")
    again.progressed(60 * 24 * 20)
    await store.write(pool, fold(again.records)[0])

    await expire(pool, settings(), NOON + 31 * DAY)

    assert [row[0] for row in await pool.fetch("SELECT run_id FROM run")] == ["second"]
    assert await pool.fetchval("SELECT count(DISTINCT run_key) FROM run_progress") == 1
    assert await pool.fetchval("SELECT count(DISTINCT run_key) FROM run_end") == 1


async def test_more_rows_than_one_transaction_takes_are_all_forgotten(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "ROWS_MAX", 1)

    assert await expire(pool, settings(), NOON + 402 * DAY) > len((*RUNS, *LEDGER, *ACCEPTED))

    assert await left(pool) == set()
    assert await expire(pool, settings(), NOON + 402 * DAY) == 0


async def test_settings_say_how_long(pool: asyncpg.Pool) -> None:
    short = settings(
        gateway_runs_retention_days=0.5, gateway_ledger_retention_days=0.5, gateway_accepted_retention_hours=1
    )
    hours = {name: retention.total_seconds() / 3600 for name, retention in retentions(short).items()}
    assert hours.pop("expire_accepted") == hours.pop("expire_keys") == 1
    assert set(hours.values()) == {12}

    await expire(pool, short, NOON + DAY)

    assert await left(pool) == set()


async def test_every_statement_has_a_retention() -> None:
    """Guard: a new table that is meant to expire does."""
    assert retentions(settings()).keys() == load_queries(GATEWAY / "sql" / "expire.sql").keys()
    assert datetime(2026, 11, 21, 12, tzinfo=UTC) == NOON  # a fixed day does: this clock is the test's own

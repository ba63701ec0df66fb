"""Owns the stories of news between gateways: what one writes wakes the streams of another, on real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from penstock.contracts import ids, topics
from penstock.contracts.messages import RunProgressed, WorkflowAliased
from penstock.runtime.postgres import connect_pool, migrate
from penstock.testkit.received import Record
from services.gateway.live import LOOK_SECONDS, TOLD_LOOK_SECONDS, Live
from services.gateway.news import DEFINITIONS, DIGITS, PAYLOAD_CHARACTERS_MAX, News, payloads
from services.gateway.read_models import store
from services.gateway.read_models.fold import Batch, fold
from services.gateway.tests.noon import NOON
from services.local.fixtures import SharedStack

MIGRATIONS = Path(__file__).parents[1] / "migrations"
WAIT_SECONDS = 30.0


def key_of(run_id: str) -> UUID:
    return ids.run_key("default", run_id)


def a_batch(*run_ids: str) -> Batch:
    """One progress record of each of these runs."""
    fields: dict[str, Any] = {"tenant": "default", "workflow": "w", "version": "1", "status": "running", "at": NOON}
    told = [RunProgressed(run_key=key_of(run_id), run_id=run_id, sequence=1, **fields) for run_id in run_ids]
    return fold([Record(each.to_json(), topic=topics.RUN_PROGRESSED.name) for each in told])[0]


@dataclass(frozen=True, slots=True)
class Listening:
    """A gateway `here` that listens, and the tables that all gateways share."""

    pool: asyncpg.Pool
    live: Live

    async def told(self) -> None:
        """Wait until it hears of others."""
        await asyncio.wait_for(self.live.told.wait(), WAIT_SECONDS)


async def woken(news: asyncio.Event) -> None:
    await asyncio.wait_for(news.wait(), WAIT_SECONDS)
    news.clear()


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listening]:
    pool = await connect_pool(url)
    await migrate(pool, MIGRATIONS)
    live, stop = Live(), asyncio.Event()
    running = asyncio.create_task(News(url, "here", live).listen(stop))
    yield Listening(pool, live)
    stop.set()
    await asyncio.wait_for(running, WAIT_SECONDS)
    await pool.close()


@pytest.fixture(scope="module")
async def gateway(stack: SharedStack) -> AsyncIterator[Listening]:
    async with listening(await stack.new_database()) as made:
        await made.told()
        yield made


@pytest.mark.stack
async def test_what_another_gateway_writes_wakes_who_watches_that_run(gateway: Listening) -> None:
    """Guard: a stream does not wait for its next look."""
    live = gateway.live
    with live.watching(key_of("seen")) as seen, live.watching(key_of("other")) as other:
        await store.write(gateway.pool, a_batch("seen"), "there")
        await woken(seen)
        assert not other.is_set()
        assert live.look_seconds == TOLD_LOOK_SECONDS


@pytest.mark.stack
async def test_what_this_gateway_writes_wakes_nobody_twice(gateway: Listening) -> None:
    with gateway.live.watching(key_of("mine")) as mine, gateway.live.watching(key_of("after")) as after:
        await store.write(gateway.pool, a_batch("mine"), "here")
        await store.write(gateway.pool, a_batch("after"), "there")
        await woken(after)
        assert not mine.is_set()


@pytest.mark.stack
async def test_a_definition_or_an_alias_wakes_who_waits_for_one(
    gateway: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.live.LOOK_SECONDS", 10 * WAIT_SECONDS)
    waiting = asyncio.create_task(gateway.live.definition())
    await asyncio.sleep(0)
    body = WorkflowAliased(name="w", alias="stable", version="1", set_at=NOON).to_json()

    await store.write(gateway.pool, fold([Record(body, topic=topics.WORKFLOW_ALIASED.name)])[0], "there")

    await asyncio.wait_for(waiting, WAIT_SECONDS)


@pytest.mark.stack
async def test_a_lost_connection_is_made_again_and_nothing_written_meanwhile_is_missed(gateway: Listening) -> None:
    with gateway.live.watching(key_of("missed")) as missed:
        await gateway.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            " AND datname = current_database()"
        )
        await woken(missed)  # it looks by itself from now on
        await gateway.told()
        missed.clear()
        await store.write(gateway.pool, a_batch("missed"), "there")
        await woken(missed)


@pytest.mark.stack
async def test_a_gateway_that_stops_lets_no_stream_wait(stack: SharedStack) -> None:
    async with listening(await stack.new_database()) as made:
        await made.told()
        watching = made.live.watching(key_of("open"))
        news = watching.__enter__()
    await woken(news)
    assert made.live.look_seconds == LOOK_SECONDS


def test_a_batch_of_thousands_of_runs_fits_into_a_few_notifications() -> None:
    keys = [key_of(str(number)) for number in range(4_000)]

    said = list(payloads("gateway with spaces-1", keys, definitions=True))

    assert len(said) == 4
    assert all(len(each) <= PAYLOAD_CHARACTERS_MAX for each in said)
    names = "".join(each.rpartition("-1 ")[2] for each in said)
    assert names == DEFINITIONS + "".join(key.hex[:DIGITS] for key in keys)
    assert list(payloads("g", [], definitions=False)) == []

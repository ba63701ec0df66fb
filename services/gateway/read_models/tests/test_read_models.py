"""The tables come out the same whatever the order, the batches and the repeats; what cannot be read is set aside."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.contracts import ids, topics
from penstock.contracts.messages import (
    Failure,
    Message,
    PricedCost,
    RunFinished,
    RunProgressed,
    RunStart,
    StepChange,
    StepPhase,
    TokenUsage,
    UsageRecorded,
    WorkflowAliased,
)
from penstock.runtime.postgres import connect_pool, migrate
from services.gateway.read_models import store
from services.gateway.read_models.fold import fold
from services.local.fixtures import SharedStack

MIGRATIONS = Path(__file__).parents[2] / "migrations"
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TABLES = ("run", "run_progress", "run_end", "usage_entry", "cost_hour", "workflow_definition", "workflow_alias")


@dataclass(frozen=True, slots=True)
class Record:
    """A record as a consumer hands it out."""

    topic: str
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = None
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


def aliased(minute: int, version: str) -> Record:
    """An alias that was set at a minute."""
    body = WorkflowAliased(name="audit", alias="stable", version=version, set_at=NOON + timedelta(minutes=minute))
    return Record(topics.WORKFLOW_ALIASED.name, body.to_json())


@dataclass
class Story:
    """The records that one run leaves behind, in the order in which they were sent."""

    run_id: str
    records: list[Record] = field(default_factory=list)
    sequence: int = 0
    version: str = ""

    def progressed(self, minute: int, status: Any = "running", **fields: Any) -> None:
        self.sequence += 1
        self._say(
            topics.RUN_PROGRESSED,
            RunProgressed(
                run_key=ids.run_key("default", self.run_id),
                run_id=self.run_id,
                tenant="default",
                workflow="audit",
                version=self.version,
                sequence=self.sequence,
                status=status,
                at=NOON + timedelta(minutes=minute),
                **fields,
            ),
        )

    def finished(self, minute: int, status: Any) -> None:
        error = None if status == "completed" else Failure(code="broken", message="it broke")
        self._say(
            topics.RUN_FINISHED,
            RunFinished(
                run_id=self.run_id,
                workflow="audit",
                version="1",
                tenant="default",
                status=status,
                error=error,
                output={"at": minute},
                started_at=NOON,
                finished_at=NOON + timedelta(minutes=minute),
            ),
        )

    def used(self, minute: int, step: str, attempt: int = 1) -> None:
        key = ids.run_key("default", self.run_id)
        self._say(
            topics.USAGE_RECORDED,
            UsageRecorded(
                request_id=ids.request_id(key, step, attempt),
                tenant="default",
                run_key=key,
                run_id=self.run_id,
                home=0,
                workflow="audit",
                version="1",
                step=step,
                attempt=attempt,
                kind="inference",
                status="succeeded",
                subject="small",
                pool="small",
                tokens=TokenUsage(input=10, cached_input=1, output=5, reasoning=2),
                cost=PricedCost(amount=Decimal("0.001"), price_version="1"),
                recorded_at=NOON + timedelta(minutes=minute),
            ),
        )

    def _say(self, topic: topics.Topic[Any], message: Message) -> None:
        self.records.append(Record(topic.name, message.to_json(), offset=len(self.records)))


def story(run_id: str) -> Story:
    """A run that fails, of a workflow that nobody knew, is redriven and completes."""
    told = Story(run_id)
    change = StepChange(step="audit/read", kind="model", phase=StepPhase.WAITING, attempt=1, at=NOON)
    told.progressed(0, start=RunStart(started_at=NOON), changes=[change])
    told.used(1, "audit/read")
    told.progressed(1)
    told.progressed(2, "failed")
    told.finished(2, "failed")
    told.version = "1"
    told.progressed(70)
    told.used(71, "audit/read", attempt=2)
    told.progressed(72, "completed")
    told.finished(72, "completed")
    return told


@pytest.fixture(scope="module")
async def pool(stack: SharedStack) -> AsyncIterator[asyncpg.Pool]:
    """A database with the gateway's tables."""
    pool = await connect_pool(await stack.new_database())
    await migrate(pool, MIGRATIONS)
    yield pool
    await pool.close()


async def tables(pool: asyncpg.Pool) -> dict[str, list[tuple[Any, ...]]]:
    return {name: sorted(tuple(row) for row in await pool.fetch(f"SELECT * FROM {name}")) for name in TABLES}


async def tables_after(pool: asyncpg.Pool, batches: list[list[Record]]) -> dict[str, list[tuple[Any, ...]]]:
    await pool.execute(";".join(f"DELETE FROM {name}" for name in TABLES))
    for records in batches:
        batch, refused = fold(records)
        assert refused == []
        await store.write(pool, batch)
    return await tables(pool)


@pytest.mark.stack
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), repeats=st.integers(0, 12), sizes=st.lists(st.integers(1, 9), min_size=1))
async def test_repeats_and_reordering_give_the_same_tables(
    pool: asyncpg.Pool, seed: int, repeats: int, sizes: list[int]
) -> None:
    # Given three runs' records, and an alias that is moved twice, as they were sent
    told = [record for name in ("a", "b/c", "d") for record in story(name).records]
    told += [aliased(minute, version) for minute, version in ((1, "1"), (2, "2"), (3, "1"))]
    expected = await tables_after(pool, [told])

    # When they come in any order, some again, in batches of any size
    shuffler = random.Random(seed)
    records = told + shuffler.choices(told, k=repeats)
    shuffler.shuffle(records)
    batches: list[list[Record]] = []
    while records:
        size = sizes[len(batches) % len(sizes)]
        batches.append(records[:size])
        records = records[size:]
    arrived = await tables_after(pool, batches)

    # Then nobody can tell
    assert arrived == expected
    assert [row[0] for row in await pool.fetch("SELECT status FROM run")] == ["completed"] * 3
    assert sum(await pool.fetchrow("SELECT sum(requests) FROM cost_hour") or ()) == 6


@pytest.mark.stack
async def test_costs_are_exact_decimals_by_the_hour(pool: asyncpg.Pool) -> None:
    # Given two attempts in two hours
    await tables_after(pool, [story("a").records])

    # When the hours are read
    rows = await pool.fetch("SELECT hour, cost, input_tokens, cached_input_tokens FROM cost_hour ORDER BY hour")

    # Then each holds its own
    assert [tuple(row) for row in rows] == [
        (NOON, Decimal("0.001"), 10, 1),
        (NOON + timedelta(hours=1), Decimal("0.001"), 10, 1),
    ]


@pytest.mark.stack
async def test_text_that_postgres_cannot_hold_is_replaced_in_columns_and_kept_in_bodies(pool: asyncpg.Pool) -> None:
    # Given a label with U+0000
    told = Story("nul")
    told.progressed(0, labels={"team": "a\x00b"})

    # When it is written
    await tables_after(pool, [told.records])

    # Then the column has a replacement and the body is as it came
    row = await pool.fetchrow("SELECT labels->>'team', body FROM run JOIN run_progress USING (run_key)")
    assert row is not None
    assert (row[0], row[1]) == ("a\ufffdb", told.records[0].value)


@pytest.mark.stack
async def test_times_are_kept_to_the_microsecond(pool: asyncpg.Pool) -> None:
    # Given a run whose times are a microsecond short of a second, in a century's time
    began, ended = (datetime(2126, 11, 21, 12, 0, second, 999_999, tzinfo=UTC) for second in (0, 59))
    told = Story("precise")
    told.progressed(0, start=RunStart(started_at=began))
    told.finished(0, "completed")
    told.used(0, "s")
    at = b"2026-11-21T12:00:00Z"
    late = [
        Record(each.topic, (each.value or b"").replace(at, b"2126-11-21T12:00:59.999999Z")) for each in told.records
    ]

    # When its records are written
    await tables_after(pool, [late])

    # Then they are what was said
    row = await pool.fetchrow("SELECT started_at, running_at, updated_at FROM run")
    assert tuple(row or ()) == (began, ended, ended)
    assert await pool.fetchval("SELECT finished_at FROM run_end") == ended
    assert await pool.fetchval("SELECT recorded_at FROM usage_entry") == ended


GOOD = story("good").records[0].value or b""


@pytest.mark.parametrize(
    ("topic", "value", "headers", "reason"),
    [
        (topics.RUN_PROGRESSED.name, None, (), "no value"),
        (topics.RUN_PROGRESSED.name, b"{", (), "$: Input data was truncated"),
        (topics.RUN_PROGRESSED.name, b"[]", (), "$: Expected `object`"),
        (topics.RUN_PROGRESSED.name, b"{}", (), "`run_key`"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"sequence":1', b'"sequence":-1'), (), "$.sequence"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"running"', b'"dancing"'), (), "$.status"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"phase":"waiting"', b'"phase":1'), (), "$.changes[0]"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"attempt":1', b'"attempt":1001'), (), "$.changes[0].attempt"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"kind":"model"', b'"kind":"\xff"'), (), "utf-8"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"kind":"model"', b'"kind":"\\ud800"'), (), "hex escape"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b'"kind":"model"', b'"kind":' + b"[" * 100_000), (), "$: "),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b"+00:00", b"").replace(b"00Z", b"00"), (), "timezone"),
        (topics.RUN_PROGRESSED.name, GOOD.replace(b"2026-11-21T12:00:00Z", b"9999-12-31T23:59:59-01:00"), (), "$.at"),
        (topics.RUN_PROGRESSED.name, GOOD, (("ce_id", b"\xff"),), "ce_id"),
        (topics.RUN_FINISHED.name, GOOD, (), "`$.status`"),
        (topics.USAGE_RECORDED.name, GOOD, (), "`request_id`"),
        (topics.WORKFLOW_PUBLISHED.name, GOOD, (), "`name`"),
        (topics.WORKFLOW_ALIASED.name, GOOD, (), "`name`"),
    ],
)
def test_what_cannot_be_read_is_set_aside_with_its_path(
    topic: str, value: bytes | None, headers: tuple[tuple[str, bytes], ...], reason: str
) -> None:
    # Given a poison record between two good ones
    good = story("good").records
    poison = Record(topic, value, headers)

    # When the batch is folded
    batch, refused = fold([good[0], poison, good[2]])

    # Then only the poison is refused, with the place of the fault
    assert [each.record for each in refused] == [poison]
    assert reason in refused[0].reason
    assert len(batch.progress) == 2


def test_a_run_has_the_version_that_was_said_last() -> None:
    for records in (story("good").records, story("good").records[::-1]):
        batch, _ = fold(records)

        assert [row.version for row in batch.runs.values()] == ["1"]


def test_a_foreign_header_that_is_not_text_is_none_of_our_business() -> None:
    # Given a good record with somebody else's bytes in a header
    record = Record(topics.RUN_PROGRESSED.name, GOOD, (("x-other", b"\xff\xfe"),))

    # When it is folded
    batch, refused = fold([record])

    # Then it counts
    assert (len(batch.progress), refused) == (1, [])


def test_structured_mode_is_read_like_binary_mode() -> None:
    # Given the same body wrapped as a structured CloudEvent
    wrapped = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data":' + GOOD + b"}"
    record = Record(topics.RUN_PROGRESSED.name, wrapped, (("content-type", b"application/cloudevents+json"),))

    # When it is folded
    batch, refused = fold([record])

    # Then it is the same row
    assert (len(batch.runs), refused) == (1, [])

"""Tests of the ledger's tables: an answer counts once, work done again shows, waste is known when runs end."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from penstock.contracts import ids, topics
from penstock.contracts.messages import (
    EngineMetered,
    Failure,
    Lane,
    Message,
    PricedCost,
    RunFinished,
    RunProgressed,
    StepChange,
    StepPhase,
    TokenUsage,
    UsageRecorded,
)
from penstock.runtime.postgres import connect_pool, migrate
from penstock.testkit.received import Record
from services.gateway.read_models import labels, store
from services.gateway.read_models.audit import audit
from services.gateway.read_models.costs import CostQuestion, Ledger
from services.gateway.read_models.fold import fold
from services.gateway.read_models.reconcile import reconciled
from services.gateway.read_models.settling import settle
from services.gateway.telemetry import Instruments
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

MIGRATIONS = Path(__file__).parents[2] / "migrations"
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EARLIER, LATER = NOON - timedelta(hours=1), NOON + timedelta(hours=24)
FIRST, SECOND = UUID(int=1), UUID(int=2)
TABLES = (
    "run, run_progress, run_end, usage_entry, usage_repeat, cost_hour, label_hour, label_value, wasted_request,"
    " run_cost, unsettled_run, engine_stretch, engine_life, engine_usage"
)


def said(*values: Any) -> tuple[Any, ...]:
    """Amounts beside whole numbers, which types would keep apart."""
    return values


@pytest.fixture(scope="module")
async def database(stack: SharedStack) -> AsyncIterator[asyncpg.Pool]:
    pool = await connect_pool(await stack.new_database())
    await migrate(pool, MIGRATIONS)
    yield pool
    await pool.close()


@pytest.fixture
async def books(database: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch) -> "Books":
    await database.execute(f"TRUNCATE {TABLES}")
    monkeypatch.setattr("services.gateway.read_models.ledger._values", labels.LabelValues())
    return Books(database)


@dataclass
class Books:
    """The tables, and the words of the records that fill them."""

    pool: asyncpg.Pool
    told: list[Record] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.pool)

    def _say(self, topic: topics.Topic[Any], message: Message) -> None:
        self.told.append(Record(message.to_json(), [], topic.name))

    async def write(self) -> None:
        batch, refused = fold(self.told)
        assert refused == []
        await store.write(self.pool, batch)
        self.told.clear()

    async def settle(self) -> None:
        await self.write()
        while await settle(self.pool, timedelta(0)):
            pass

    def used(self, run: str, step: str = "s", attempt: int = 1, cost: str = "1", **changes: Any) -> None:
        key = ids.run_key("default", run)
        fields: dict[str, Any] = {
            "request_id": ids.request_id(key, step, attempt),
            "tenant": "default",
            "run_key": key,
            "run_id": run,
            "home": 0,
            "workflow": "audit",
            "version": "1",
            "step": step,
            "attempt": attempt,
            "kind": "inference",
            "status": "succeeded",
            "subject": "small",
            "pool": "small",
            "lane": Lane.BATCH,
            "engine": "vllm-0",
            "tokens": TokenUsage(input=10, output=5),
            "gpu_seconds": Decimal("0.5"),
            "gpu_type": "h200-sxm",
            "engine_session": FIRST,
            "cost": PricedCost(amount=Decimal(cost), price_version="1"),
            "recorded_at": NOON + timedelta(minutes=1),
        }
        self._say(topics.USAGE_RECORDED, UsageRecorded(**{**fields, **changes}))

    def changed(self, run: str, step: str, phase: StepPhase, attempt: int = 1, sequence: int = 1) -> None:
        self._say(
            topics.RUN_PROGRESSED,
            RunProgressed(
                run_key=ids.run_key("default", run),
                run_id=run,
                tenant="default",
                workflow="audit",
                version="1",
                labels={"team": "legal"},
                sequence=sequence,
                status="running",
                at=NOON,
                changes=[StepChange(step=step, kind="model", phase=phase, attempt=attempt, at=NOON)],
            ),
        )

    def ended(self, run: str, status: Any = "completed", minute: int = 5) -> None:
        self._say(
            topics.RUN_FINISHED,
            RunFinished(
                run_id=run,
                workflow="audit",
                version="1",
                tenant="default",
                labels={"team": "legal"},
                status=status,
                error=None if status == "completed" else Failure(code="broken", message="it broke"),
                output={},
                started_at=NOON,
                finished_at=NOON + timedelta(minutes=minute),
            ),
        )

    def metered(self, sequence: int, session: UUID = FIRST, **changes: Any) -> None:
        """A minute at 60 an hour: half idle, half attributed."""
        fields: dict[str, Any] = {
            "engine": "vllm-0",
            "engine_session": session,
            "sequence": sequence,
            "pool": "small",
            "models": ["small"],
            "gpu_type": "h200-sxm",
            "gpus": 1,
            "price_per_hour": Decimal(120),
            "currency": "USD",
            "price_version": "1",
            "since": NOON + timedelta(minutes=sequence),
            "until": NOON + timedelta(minutes=sequence + 1),
            "seconds": Decimal(60),
            "busy_seconds": Decimal(30),
            "total": Decimal(2),
            "idle": Decimal(1),
            "attributed": Decimal(1),
            "pending": Decimal(0),
            "requests": 1,
        }
        self._say(topics.ENGINE_METERED, EngineMetered(**{**fields, **changes}))

    async def line(self, by: str = "workflow", label: str | None = None) -> dict[str, Any]:
        (line,) = await self.lines(by, label)
        return line

    async def lines(self, by: str = "workflow", label: str | None = None) -> list[dict[str, Any]]:
        return await self.ledger.costs(CostQuestion(by.split(","), EARLIER, LATER, label), 100)

    async def runs(self, label: str | None = None) -> dict[str, Any]:
        (line,) = await self.ledger.runs(CostQuestion(["workflow"], EARLIER, LATER, label))
        return line


async def test_entries_are_told_apart_by_lane_engine_step_and_accelerator(books: Books) -> None:
    books.used("a", "audit/documents[3]/read")
    books.used("a", "audit/documents[14]/read")
    books.used("a", "note", kind="tool", gpu_seconds=None, gpu_type=None, engine_session=None, lane=None)

    await books.write()

    assert [(line["step"], line["lane"], line["requests"]) for line in await books.lines("step,lane")] == [
        ("audit/documents[]/read", "batch", 2),
        ("note", "", 1),
    ]
    assert [line["gpu_seconds"] for line in await books.lines("gpu_type,engine")] == [1, 0]


async def test_an_answer_counts_once_and_work_that_was_done_again_shows(books: Books) -> None:
    # given one usage, told twice, and another of the same request from the engine's next life, in one batch and later
    for _ in range(2):
        books.used("a", cost="1")
        books.used("a", cost="1")
        books.used("a", cost="7", engine_session=SECOND)
        books.metered(0)
        books.metered(0, SECOND, attributed=Decimal(7), total=Decimal(8), price_per_hour=Decimal(480), closed=True)
        await books.write()

    # then the ledger has it once, and the second life's account still closes
    assert (await books.line())["cost"] == 1
    (first, second) = await books.ledger.lives(EARLIER, LATER)
    assert said(first.usage_cost, first.repeated_cost, first.stretches) == (1, 0, 1)
    assert said(second.usage_cost, second.repeated_cost, second.repeated_requests) == (0, 7, 1)
    accounts = [account for pool in reconciled([second], LATER) for account in pool.accounts]
    assert said(*[(account.difference, account.lost) for account in accounts]) == tuple([(0, 7)])


async def test_stretches_make_a_life_whatever_their_order(books: Books) -> None:
    books.metered(2, closed=True)
    books.metered(0, pending=Decimal(5))
    await books.write()
    books.metered(1, pending=Decimal(3), lost=Decimal(1), attributed=Decimal(0))
    books.metered(0)
    await books.write()

    (life,) = await books.ledger.lives(EARLIER, LATER)
    assert said(life.stretches, life.last_sequence, life.total, life.pending, life.closed) == (3, 2, 6, 0, True)
    (line,) = await books.ledger.engine_time(EARLIER, LATER)
    assert (line["total"], line["idle"], line["attributed"], line["lost"]) == (6, 3, 2, 1)


async def test_what_failed_or_was_replaced_or_abandoned_was_in_vain(books: Books) -> None:
    # given a first attempt that failed, one that timed out and answered later, and one of a cancelled branch
    books.used("a", attempt=1, cost="1", status="failed")
    books.used("a", attempt=2, cost="10")
    books.changed("a", "s", StepPhase.COMPLETED, 2)
    books.used("b", attempt=1, cost="100")
    books.changed("b", "s", StepPhase.WAITING, 2)
    books.used("c", "branch", cost="1000")
    books.changed("c", "branch", StepPhase.CANCELLED)
    await books.settle()
    assert (await books.line())["wasted_retries"] == 0

    # when the runs end
    for run in "abc":
        books.ended(run)
    await books.settle()

    # then their waste is known, in its columns
    line = await books.line()
    assert (line["wasted_retries"], line["wasted_abandoned"], line["wasted_failed"]) == (101, 1000, 0)
    assert line["cost"] == 1111


async def test_all_of_a_failed_run_was_in_vain_until_it_is_redriven_and_completes(books: Books) -> None:
    books.used("a", "one", cost="5")
    books.changed("a", "one", StepPhase.COMPLETED)
    books.ended("a", "failed")
    await books.settle()
    assert (await books.line())["wasted_failed"] == 5

    books.ended("a", "completed", minute=9)
    await books.settle()

    assert (await books.line())["wasted_failed"] == 0
    assert (await books.runs())["runs_completed"] == 1


async def test_usage_that_comes_after_the_end_is_settled_again(books: Books) -> None:
    books.changed("a", "s", StepPhase.COMPLETED)
    books.ended("a", "failed")
    await books.settle()

    books.used("a", cost="3")
    await books.settle()

    assert (await books.line())["wasted_failed"] == 3
    assert await books.pool.fetchval("SELECT cost FROM run_cost") == 3


async def test_what_a_finished_task_costs_and_how_many_calls_it_makes(books: Books) -> None:
    # given nine runs of one call, one of eleven of which a failed one, and a failed run
    for number in range(9):
        books.used(f"r{number}", cost="1")
    for attempt in range(1, 12):
        books.used("loop", attempt=attempt, cost="1", status="failed" if attempt == 1 else "succeeded")
    books.used("bad", cost="50")
    for run in [*(f"r{number}" for number in range(9)), "loop"]:
        books.changed(run, "s", StepPhase.COMPLETED)
        books.ended(run)
    books.changed("bad", "s", StepPhase.FAILED)
    books.ended("bad", "failed")

    await books.settle()

    line = await books.runs()
    assert (line["runs_completed"], line["runs_failed"], line["completed_cost"]) == (10, 1, 20)
    assert (line["calls"], line["calls_max"]) == ([1, 11], 11)
    by_label = await books.runs("team")
    assert (by_label["label"], by_label["runs_completed"]) == ("legal", 10)


async def test_labels_are_a_column_with_their_waste(books: Books) -> None:
    books.used("a", cost="2", labels={"team": "legal", "site": "x"})
    books.used("b", cost="3", labels={"team": "sales"})
    books.used("c", cost="4")
    books.changed("b", "s", StepPhase.FAILED)
    books.ended("b", "failed")
    await books.settle()

    lines = await books.lines("workflow", "team")

    assert [(line["label"], line["cost"], line["wasted_retries"]) for line in lines] == [
        ("sales", 3, 3),
        ("legal", 2, 0),
    ]


async def test_a_label_with_too_many_values_counts_the_rest_together(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "VALUES_MAX", 3)
    monkeypatch.setattr(labels, "KEYS_MAX", 2)
    for number in range(5):
        books.used(f"r{number}", labels={"order": str(number), "team": "a", "zone": "z"})
    await books.write()

    # and after a restart the same ones count apart
    monkeypatch.setattr("services.gateway.read_models.ledger._values", labels.LabelValues())
    for number in range(5):
        books.used(f"s{number}", labels={"order": str(4 - number)})
    await books.write()

    lines = {line["label"]: line["requests"] for line in await books.lines("workflow", "order")}
    assert lines == {"0": 2, "1": 2, "2": 2, labels.OTHER: 4}
    assert [line["requests"] for line in await books.lines("workflow", "team")] == [5]
    assert await books.lines("workflow", "zone") == []


async def test_the_pace_of_a_lane_is_what_its_requests_took(books: Books) -> None:
    books.used("a", cost="2")
    books.used("b", cost="4", gpu_seconds=Decimal("1.5"))
    await books.write()

    pace = (await books.ledger.pace(EARLIER))["small", "batch"]

    assert said(pace.requests, pace.gpu_seconds, pace.cost) == (2, 1, 3)


async def test_entries_come_as_they_were_told_with_the_engines_accounts(books: Books) -> None:
    books.used("a")
    books.metered(0)
    bodies = [record.value for record in books.told]
    await books.write()

    entries = [entry async for entry in books.ledger.entries(EARLIER, LATER)]

    assert entries == [("engine", bodies[1]), ("usage", bodies[0])]


async def test_a_difference_of_closed_lives_is_a_metric(books: Books) -> None:
    books.used("a", cost="0.75")
    books.metered(0, closed=True)
    books.used("b", cost="9", engine_session=SECOND)
    books.metered(0, SECOND)
    await books.write()
    registry = CollectorRegistry()

    await audit(books.ledger, Instruments(registry), NOON + timedelta(minutes=30))

    place = {"pool": "small", "gpu_type": "h200-sxm", "currency": "USD"}
    assert registry.get_sample_value("penstock_ledger_difference", place) == -0.25


def test_a_stretch_that_cannot_be_read_is_set_aside() -> None:
    _, refused = fold([Record(b"{}", [], topics.ENGINE_METERED.name)])

    assert "`engine_session`" in refused[0].reason

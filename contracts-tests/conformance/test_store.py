"""Owns the promises of the orchestrator's memory: the one in a dict and the one in Postgres keep the same ones."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from importlib.resources import files
from uuid import UUID, uuid5

import pytest

from penstock.contracts.children import ParentStep
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import Budget, Failure, Lane, StepPhase
from penstock.runtime.errors import Fenced, Unavailable
from penstock.runtime.postgres import AWAY, connect_pool, migrate
from services.local.fixtures import SharedStack
from services.orchestrator.core.state import NOTHING, Amounts, Run, Step, Unanswered, Undo
from services.orchestrator.shell.memory_store import MemoryStore
from services.orchestrator.shell.postgres_store import PostgresStore
from services.orchestrator.shell.store import Advance, Alarm, Batch, Charge, RunTakenError, Slice, SliceClaim, Store

REQUESTED, COMPLETED = "penstock.run.requested.v1", "penstock.task.completed.v1"
TOPICS = (REQUESTED, COMPLETED)
AT_MS = 1_700_000_000_000


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.stack)])
def backing(request: pytest.FixtureRequest) -> SharedStack | None:
    """Each implementation in turn: None is the one in memory."""
    if request.param == "memory":
        return None
    stack: SharedStack = request.getfixturevalue("stack")
    return stack


@pytest.fixture
async def store(backing: SharedStack | None) -> AsyncIterator[Store]:
    """An empty store."""
    if backing is None:
        yield MemoryStore()
        return
    pool = await connect_pool(await backing.new_database())
    await migrate(pool, files("services.orchestrator") / "migrations")
    yield PostgresStore(pool)
    await pool.close()


def a_run(run_id: str = "order-1", *, home: int = 1) -> Run:
    """A run in the middle of its work."""
    return Run(
        key=run_key("acme", run_id),
        tenant="acme",
        run_id=run_id,
        workflow="audit",
        version="1",
        home=home,
        status="running",
        input={"text": "zażółć \x00 gęślą", "n": [1, None, 2.5]},
        labels={"team": "a"},
        priority=Lane.BATCH,
        budget=None,
        deadline_at_ms=AT_MS + 60_000,
        traceparent=None,
        started_at_ms=AT_MS,
        sequence=1,
    )


def a_step(run: Run, path: str = "audit/read") -> Step:
    """A step on its first attempt."""
    step = Step(
        path=path, kind="task", phase=StepPhase.WAITING, attempt=1, tries=1, dispatched_at_ms=AT_MS, due_at_ms=AT_MS + 9
    )
    step.request_id = request_id(run.key, path, 1)
    run.steps[path] = step
    return step


async def owned(store: Store, *homes: int) -> dict[tuple[int, str], int]:
    """Claim homes; the epochs by place."""
    claim = await store.claim(homes, TOPICS)
    return {place: position.owner_epoch for place, position in claim.positions.items()}


def advance(epochs: dict[tuple[int, str], int], start: int, end: int, *, home: int = 1) -> Advance:
    """One topic of one home moves on."""
    return Advance(home, REQUESTED, start, end, epochs[home, REQUESTED])


async def test_what_a_batch_wrote_is_read_back_whole(store: Store) -> None:
    # given a run with a step that was paid for
    epochs = await owned(store, 1)
    run = a_run()
    run.parent = ParentStep(run_id="order-0", home=2, step="audit/review", request_id=run_key("acme", "asked"), depth=1)
    step = a_step(run)
    step.model_calls, step.input_tokens, step.output_tokens, step.cost = 2, 30, 5, Decimal("0.000123")
    step.give_up_at_ms, step.route_reason = AT_MS + 60_000, "in_flight_max"
    step.reserved, step.unanswered = (
        Amounts(1, 300, Decimal("0.00012")),
        (
            Unanswered(2, Amounts(2, 600, Decimal(0)), 1_700_000_000_000),
            Unanswered(3, Amounts(1, 300, Decimal(1)), 1_700_000_000_001, burst=True),
        ),
    )
    run.usage.model_calls, run.usage.input_tokens, run.usage.output_tokens = 2, 30, 5
    run.usage.cost = Decimal("0.000123")
    # when it is written
    rows = await store.commit(
        Batch(
            advances=[advance(epochs, 0, 5)],
            started=[run],
            steps=[(run, step)],
            alarms_set=[Alarm(run.key, 1, AT_MS + 9)],
            outbox=[(1, b"\x00packed")],
        )
    )
    # then everything is there for the next owner
    loaded = await store.load([run.key, uuid5(run.key, "other")])
    assert loaded == {run.key: run}
    assert type(loaded[run.key].key) is UUID  # a driver's subclass would not do: it is written as JSON
    claim = await store.claim([1], TOPICS)
    assert claim.positions[1, REQUESTED].next_offset == 5
    assert claim.positions[1, COMPLETED].next_offset == 0
    assert claim.outbox == [(*rows[0], b"\x00packed")]
    assert claim.alarms == [Alarm(run.key, 1, AT_MS + 9)]
    assert type(claim.alarms[0].run_key) is UUID


async def test_a_finished_run_keeps_its_output_and_a_failed_one_its_error(store: Store) -> None:
    epochs = await owned(store, 1)
    done, failed = a_run("done"), a_run("failed")
    completed, broken = a_step(done), a_step(failed)
    await store.commit(
        Batch(advances=[advance(epochs, 0, 2)], started=[done, failed], steps=[(done, completed), (failed, broken)])
    )
    # when both end
    completed.phase, completed.output, completed.due_at_ms = StepPhase.COMPLETED, None, None
    broken.phase, broken.error = StepPhase.FAILED, Failure(code="x", message="y")
    done.status, done.output, done.finished_at_ms, done.sequence = "completed", {"rows": [1]}, AT_MS + 5, 2
    failed.status, failed.error, failed.finished_at_ms, failed.sequence = "failed", broken.error, AT_MS + 5, 2
    failed.redrives, failed.deadline_at_ms, failed.version = 1, AT_MS + 99, "nightly-2"
    await store.commit(
        Batch(advances=[advance(epochs, 2, 4)], changed=[done, failed], steps=[(done, completed), (failed, broken)])
    )
    # then
    assert await store.load([done.key, failed.key]) == {done.key: done, failed.key: failed}


def a_claim(home: int, wanted: Amounts, *, day: int = 20_000) -> SliceClaim:
    """A claim of a tenant that may use ten calls and a hundred tokens a day."""
    return SliceClaim("acme", day, home, wanted, Budget(model_calls=10, tokens=100))


async def test_homes_are_given_no_more_of_a_day_than_its_caps(store: Store) -> None:
    # given a home that holds most of a day
    (first,) = await store.claim_slices([a_claim(1, Amounts(7, 60))])
    assert first == Slice(Amounts(7, 60), Amounts(7, 60), NOTHING)
    # when two others want more, and the first one gives some back in between
    second, returned, third = await store.claim_slices(
        [a_claim(2, Amounts(7, 10)), a_claim(1, Amounts(-2, -50)), a_claim(2, Amounts(7, 50, Decimal("0.5")))]
    )
    # then they are given what is left, and nothing of what has no cap
    assert second == Slice(Amounts(3, 10), Amounts(3, 10), NOTHING)
    assert returned == Slice(Amounts(-2, -50), Amounts(5, 10), NOTHING)
    assert third == Slice(Amounts(2, 50), Amounts(5, 60), NOTHING)
    # and another day, or another tenant, has its own
    (other,) = await store.claim_slices([a_claim(2, Amounts(7), day=20_001)])
    assert other.given == Amounts(7)


async def test_what_a_batch_used_of_a_day_is_written_with_it_or_not_at_all(store: Store) -> None:
    # given a slice of a day
    stale = await owned(store, 1)
    epochs = await owned(store, 1)
    await store.claim_slices([a_claim(1, Amounts(5, 50))])
    used = Charge("acme", 20_000, 1, Amounts(2, 30, Decimal("0.25")))
    # when a zombie uses it, and then its owner does, and gives some back
    with pytest.raises(Fenced):
        await store.commit(Batch(advances=[advance(stale, 0, 1)], charges=[used]))
    fresh = Charge("acme", 20_001, 1, Amounts(1))
    await store.commit(Batch(advances=[advance(epochs, 0, 1)], charges=[used, fresh]))
    settled = Charge("acme", 20_000, 1, Amounts(0, -20, Decimal("-0.05")))
    await store.commit(Batch(advances=[advance(epochs, 1, 2)], charges=[settled]))
    # then the owner's is what counts; more than was used cannot be given back
    (held,) = await store.claim_slices([a_claim(1, NOTHING)])
    assert held == Slice(NOTHING, Amounts(5, 50), Amounts(2, 10, Decimal("0.20")))
    more = Charge("acme", 20_000, 1, Amounts(-9, -99, Decimal(-9)))
    await store.commit(Batch(advances=[advance(epochs, 2, 3)], charges=[more]))
    (held,) = await store.claim_slices([a_claim(1, NOTHING)])
    assert held.used == NOTHING
    # and days that are over are removed with old runs
    await store.delete_finished_runs(20_001 * 86_400_000, 10)
    assert [each.granted for each in await store.claim_slices([a_claim(1, NOTHING)])] == [NOTHING]


async def test_a_run_that_undoes_is_found_undoing(store: Store) -> None:
    # given a running run with a step that can be undone, and one that may have to be
    epochs = await owned(store, 1)
    run = a_run()
    done, asked = a_step(run), a_step(run, "audit/write")
    done.phase, done.due_at_ms, done.output = StepPhase.COMPLETED, None, {"id": 7}
    done.undo = Undo(order=3, given={"id": 7, "text": "zażółć"})
    asked.phase, asked.due_at_ms = StepPhase.CANCELLED, None
    asked.undo = Undo(scope={"input": {"a": [1, None]}}, until_ms=AT_MS + 9)
    await store.commit(Batch(advances=[advance(epochs, 0, 1)], started=[run], steps=[(run, done), (run, asked)]))
    # when it fails and begins to undo
    run.undoing, run.error, run.deadline_at_ms = "failed", Failure(code="x", message="y"), AT_MS + 99
    await store.commit(Batch(advances=[advance(epochs, 1, 2)], changed=[run]))
    # then the next owner finds it so
    assert await store.load([run.key]) == {run.key: run}
    # and over, when it is
    run.undoing, run.status, run.finished_at_ms = None, "failed", AT_MS + 50
    await store.commit(Batch(advances=[advance(epochs, 2, 3)], changed=[run]))
    assert await store.load([run.key]) == {run.key: run}


async def test_an_earlier_owner_writes_nothing(store: Store) -> None:
    # given an owner that does not know that another took its home over
    stale = await owned(store, 1, 2)
    current = await owned(store, 1)
    run = a_run()
    zombie = Batch(advances=[advance(stale, 0, 3), advance(stale, 0, 3, home=2)], started=[run], outbox=[(1, b"x")])
    # when it writes, then it is told and nothing is written, not even for the home it still owns
    with pytest.raises(Fenced):
        await store.commit(zombie)
    assert await store.load([run.key]) == {}
    claim = await store.claim([1, 2], TOPICS)
    assert claim.positions[2, REQUESTED].next_offset == 0
    assert not claim.outbox
    assert current[1, REQUESTED] == stale[1, REQUESTED] + 1


async def test_a_batch_that_was_written_already_writes_nothing(store: Store) -> None:
    epochs = await owned(store, 1)
    await store.commit(Batch(advances=[advance(epochs, 0, 3)]))
    with pytest.raises(Fenced):
        await store.commit(Batch(advances=[advance(epochs, 0, 3)], outbox=[(1, b"again")]))
    assert not (await store.claim([1], TOPICS)).outbox


async def test_a_run_is_started_once(store: Store) -> None:
    # given the same run, requested on two partitions
    epochs = await owned(store, 1, 2)
    await store.commit(Batch(advances=[advance(epochs, 0, 1)], started=[a_run(home=1)]))
    # when the other owner starts it too, then its whole batch is refused
    with pytest.raises(RunTakenError):
        await store.commit(Batch(advances=[advance(epochs, 0, 1, home=2)], started=[a_run(home=2)], outbox=[(2, b"x")]))
    claim = await store.claim([2], TOPICS)
    assert claim.positions[2, REQUESTED].next_offset == 0
    assert not claim.outbox


async def test_alarms_move_and_go(store: Store) -> None:
    epochs = await owned(store, 1)
    first, second = run_key("acme", "a"), run_key("acme", "b")
    await store.commit(Batch(advances=[advance(epochs, 0, 1)], alarms_set=[Alarm(first, 1, 10), Alarm(second, 1, 20)]))
    await store.commit(
        Batch(advances=[advance(epochs, 1, 2)], alarms_set=[Alarm(second, 1, 5)], alarms_cleared=[first])
    )
    assert (await store.claim([1], TOPICS)).alarms == [Alarm(second, 1, 5)]


async def test_acknowledged_outbox_rows_go_with_the_next_batch_or_alone(store: Store) -> None:
    epochs = await owned(store, 1)
    first, second = await store.commit(Batch(advances=[advance(epochs, 0, 1)], outbox=[(1, b"1"), (1, b"2")]))
    (third,) = await store.commit(Batch(advances=[advance(epochs, 1, 2)], acknowledged=[first], outbox=[(1, b"3")]))
    await store.delete_outbox([second])
    assert (await store.claim([1], TOPICS)).outbox == [(*third, b"3")]


async def test_the_first_definition_under_a_name_and_version_stays(store: Store) -> None:
    assert await store.add_definition("audit", "1", b'{"a":1}', AT_MS) == b'{"a":1}'
    assert await store.add_definition("audit", "1", b'{"a":2}', AT_MS) == b'{"a":1}'
    await store.add_definition("audit", "0", b"{}", AT_MS)
    assert await store.definitions() == [("audit", "1", b'{"a":1}'), ("audit", "0", b"{}")]


async def test_a_definition_that_several_add_at_once_is_the_same_to_all(store: Store) -> None:
    """Guard: orchestrators that read a definition at the same moment all go on."""
    for number in range(20):
        bodies = [b'{"by":%d}' % writer for writer in range(6)]
        kept = await asyncio.gather(*(store.add_definition(f"w{number}", "1", body, AT_MS) for body in bodies))
        assert len(set(kept)) == 1
        assert kept[0] in bodies


async def test_only_runs_that_ended_long_ago_are_removed(store: Store) -> None:
    epochs = await owned(store, 1)
    running, old, older, recent = (a_run(name) for name in ("running", "old", "older", "recent"))
    for run, at_ms in ((old, AT_MS + 2), (older, AT_MS + 1), (recent, AT_MS + 50)):
        run.status, run.finished_at_ms = "completed", at_ms
    await store.commit(Batch(advances=[advance(epochs, 0, 1)], started=[running, old, older, recent]))
    # when at most one may go, the oldest does
    assert await store.delete_finished_runs(AT_MS + 50, 1) == 1
    assert set(await store.load([old.key, older.key])) == {old.key}
    assert await store.delete_finished_runs(AT_MS + 50, 10) == 1
    assert set(await store.load([running.key, old.key, recent.key])) == {running.key, recent.key}


async def test_broadcast_offsets_only_grow(store: Store) -> None:
    assert await store.broadcast_offset("t") == 0
    await store.advance_broadcast("t", 7)
    await store.advance_broadcast("t", 3)
    assert await store.broadcast_offset("t") == 7


@pytest.mark.parametrize("kind", AWAY)
async def test_a_server_that_goes_away_is_waited_for(kind: type[Exception]) -> None:
    # given a pool whose server ends in the middle of a statement
    class Pool:
        def acquire(self) -> "Pool":
            return self

        async def __aenter__(self) -> "Pool":
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def fetch(self, *_: object) -> None:
            raise kind("terminating connection")

    # when a batch is written, then the loop hears that it is to try again
    with pytest.raises(Unavailable):
        await PostgresStore(Pool()).commit(Batch())  # type: ignore[arg-type]  # what commit needs of a pool

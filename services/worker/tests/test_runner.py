"""Tests of the worker's handler: a record in, two answers out."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import NextMove, TaskCompleted, TaskRequested, UsageRecorded, WorkError
from penstock.contracts.topics import TASK_COMPLETED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.work import Answers
from penstock.testkit.received import Record
from penstock.workflow.task import Context, Failed, current, task
from services.worker.runner import TaskRunner
from services.worker.threads import DaemonThreads

AT_MS = 1_795_000_000_000
KEY = run_key("default", "r")


@pytest.fixture
def cancellations() -> Cancellations:
    return Cancellations()


@pytest.fixture
def runner(cancellations: Cancellations) -> Iterator[TaskRunner]:
    with DaemonThreads(2) as threads:
        answers = Answers(Service.WORKER, TASK_COMPLETED, "task", "w")
        large = LargeValues(Blobs(""), lambda: AT_MS)
        yield TaskRunner(answers, threads, large, 4, lambda: AT_MS, cancellations)


async def run(runner: TaskRunner, name: str, given_input: Any = None, *, seconds: float = 60.0) -> TaskCompleted:
    request = TaskRequested(
        request_id=request_id(KEY, "s", 2),
        tenant="default",
        run_key=KEY,
        run_id="r",
        home=1,
        workflow="w",
        version="1",
        step="s",
        attempt=2,
        deadline=datetime.fromtimestamp(AT_MS / 1000 + seconds, UTC),
        queue="default",
        task=name,
        input=given_input,
    )
    completed, usage = await runner.handle(Record(request.to_json(), timestamp=AT_MS))
    recorded = UsageRecorded.model_validate_json(usage.value)
    outcome = TaskCompleted.model_validate_json(completed.value)
    assert (recorded.kind, recorded.subject, recorded.status) == ("task", name, outcome.status)
    assert recorded.request_id == outcome.request_id == request.request_id
    return outcome


async def error_of(runner: TaskRunner, name: str, given_input: Any = None, *, seconds: float = 60.0) -> WorkError:
    error = (await run(runner, name, given_input, seconds=seconds)).error
    assert error is not None
    return error


@task(name="t.add")
async def add(a: int, b: int = 1) -> int:
    return a + b


@task(name="t.add_plain")
def add_plain(a: int, b: int = 1) -> dict[str, Any]:
    return {"sum": a + b, "thread": threading.current_thread() is threading.main_thread()}


@task(name="t.who")
def who() -> Any:
    context = current()
    assert isinstance(context, Context)
    return {"id": str(context.request_id), "attempt": context.attempt, "step": context.step}


@task(name="t.fails")
async def fails(how: str) -> int:
    match how:
        case "raise":
            raise ValueError("no such order")
        case "choose":
            raise Failed("out_of_stock", "none left", next=NextMove.RETRY_AFTER, retry_after_ms=5000)
        case "cancel":
            raise asyncio.CancelledError
        case "exit":
            raise SystemExit(3)
        case "timeout":
            raise TimeoutError("the other side is slow")
        case _:
            return "not a number"  # type: ignore[return-value]  # that is the point


@task(name="t.stop_iteration")
def stop_iteration() -> int:
    return next(iter(()))


@task(name="t.forever")
async def forever() -> None:
    await asyncio.Event().wait()


@task(name="t.large")
async def large() -> str:
    return "x" * (512 * 1024)


async def test_an_async_task_answers_with_its_value(runner: TaskRunner) -> None:
    completed = await run(runner, "t.add", {"a": 2})

    assert (completed.status, completed.output, completed.task, completed.executor) == ("succeeded", 3, "t.add", "w")


async def test_a_plain_task_runs_in_a_thread(runner: TaskRunner) -> None:
    assert (await run(runner, "t.add_plain", {"a": 2, "b": 5})).output == {"sum": 7, "thread": False}


async def test_a_task_knows_its_attempt(runner: TaskRunner) -> None:
    completed = await run(runner, "t.who")

    assert completed.output == {"id": str(completed.request_id), "attempt": 2, "step": "s"}


@pytest.mark.parametrize(
    ("how", "code", "next_move", "message"),
    [
        ("raise", "task_failed", NextMove.RETRY_AFTER, "ValueError: no such order"),
        ("choose", "out_of_stock", NextMove.RETRY_AFTER, "none left"),
        ("cancel", "task_failed", NextMove.RETRY_AFTER, "cancelled from inside"),
        ("exit", "task_failed", NextMove.RETRY_AFTER, "SystemExit: 3"),
        ("timeout", "task_failed", NextMove.RETRY_AFTER, "the other side is slow"),
        ("output", "output_invalid", NextMove.GIVE_UP, "output: Input should be a valid integer"),
    ],
)
async def test_failures_are_named_with_the_next_move(
    runner: TaskRunner, how: str, code: str, next_move: NextMove, message: str
) -> None:
    error = await error_of(runner, "t.fails", {"how": how})

    assert (error.code, error.next) == (code, next_move)
    assert message in error.message


async def test_an_iterator_that_ends_inside_a_plain_task_does_not_hang_it(runner: TaskRunner) -> None:
    assert (await error_of(runner, "t.stop_iteration")).code == "task_failed"


async def test_an_input_that_misses_is_not_tried_again(runner: TaskRunner) -> None:
    error = await error_of(runner, "t.add", {"a": "two"})

    assert (error.code, error.next) == ("input_invalid", NextMove.GIVE_UP)
    assert error.message.startswith("input.a: ")


async def test_an_unknown_task_is_named_beside_the_known_ones(runner: TaskRunner) -> None:
    error = await error_of(runner, "t.nobody")

    assert (error.code, error.next) == ("unknown_task", NextMove.GIVE_UP)
    assert "t.add" in error.message


async def test_past_its_deadline_a_task_is_not_run(runner: TaskRunner) -> None:
    error = await error_of(runner, "t.fails", {"how": "raise"}, seconds=-1)

    assert (error.code, error.next) == ("deadline_exceeded", NextMove.RETRY_ELSEWHERE)


async def test_a_task_that_runs_into_its_deadline_is_stopped(runner: TaskRunner) -> None:
    error = await error_of(runner, "t.forever", seconds=0.01)

    assert (error.code, error.next) == ("timeout", NextMove.RETRY_AFTER)


async def test_an_output_over_the_limit_is_refused(runner: TaskRunner) -> None:
    assert (await error_of(runner, "t.large")).code == "value_too_large"


async def test_when_the_worker_drains_a_running_task_is_cancelled(runner: TaskRunner) -> None:
    # given a task that runs, when the consumer cancels it
    running = asyncio.create_task(run(runner, "t.forever"))
    await asyncio.sleep(0)
    running.cancel()

    # then there is no answer: the record stays uncommitted and is delivered again
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_record_that_is_no_request_is_poison(runner: TaskRunner) -> None:
    with pytest.raises(Poison):
        await runner.handle(Record(b'{"task": 1}'))


BEGUN = asyncio.Event()
RELEASED = threading.Event()


@task(name="cancellations.waits")
async def waits() -> None:
    BEGUN.set()
    await asyncio.Event().wait()


@task(name="cancellations.sleeps")
def sleeps() -> None:
    RELEASED.wait()


async def test_an_async_task_that_nobody_awaits_is_cancelled(runner: TaskRunner, cancellations: Cancellations) -> None:
    running = asyncio.create_task(run(runner, "cancellations.waits"))
    await BEGUN.wait()

    cancellations.tell(request_id(KEY, "s", 2), "the branch is not needed")

    assert (await running).error == WorkError(
        code="cancelled", message="stopped, because the branch is not needed", next=NextMove.GIVE_UP
    )


async def test_a_task_that_nobody_awaits_is_not_begun(runner: TaskRunner, cancellations: Cancellations) -> None:
    BEGUN.clear()
    cancellations.tell(request_id(KEY, "s", 2), "the branch is not needed")

    assert (await error_of(runner, "cancellations.waits")).code == "cancelled"
    assert not BEGUN.is_set()


async def test_a_plain_task_is_answered_for_and_goes_on_in_its_thread(
    runner: TaskRunner, cancellations: Cancellations
) -> None:
    running = asyncio.create_task(run(runner, "cancellations.sleeps"))
    await asyncio.sleep(0)

    cancellations.tell(request_id(KEY, "s", 2), "the branch is not needed")

    outcome = await running
    RELEASED.set()
    assert outcome.error is not None
    assert outcome.error.code == "cancelled"

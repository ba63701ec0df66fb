"""Cancelled work: told before, during and after it runs, to whoever runs it, from a broker that remembers a while."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import pytest

from penstock.contracts.messages import WorkCancelled
from penstock.contracts.topics import WORK_CANCELLED
from penstock.runtime.kafka.cancellations import CancellationReader, Cancellations, WorkStoppedError
from penstock.testkit.aside import Letters
from penstock.testkit.log import MemoryLog

ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))
SECONDS = 8.0


def a_cancel(request_id: UUID) -> bytes:
    return WorkCancelled(
        request_id=request_id,
        tenant="default",
        run_key=UUID(int=9),
        run_id="r",
        step="s",
        attempt=1,
        reason="not needed",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    ).to_json()


async def test_what_runs_is_stopped_at_once() -> None:
    cancellations, inside = Cancellations(), asyncio.Event()

    async def work() -> None:
        with cancellations.heeding(ONE):
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(work())
    await inside.wait()
    cancellations.tell(TWO, "another's")
    cancellations.tell(ONE, "not needed")

    with pytest.raises(WorkStoppedError, match="not needed"):
        await running
    assert running.cancelling() == 0


async def test_what_was_cancelled_before_is_not_begun() -> None:
    cancellations = Cancellations()
    cancellations.tell(ONE, "not needed")

    with pytest.raises(WorkStoppedError, match="not needed"), cancellations.heeding(ONE):
        pytest.fail("it began")


async def test_every_execution_of_a_request_is_stopped() -> None:
    """A redelivery may run beside the last moments of the first delivery."""
    cancellations = Cancellations()

    async def work() -> None:
        with cancellations.heeding(ONE):
            await asyncio.Event().wait()

    running = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.sleep(0)
    cancellations.tell(ONE, "not needed")

    ended = await asyncio.gather(*running, return_exceptions=True)
    assert [type(each) for each in ended] == [WorkStoppedError, WorkStoppedError]


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    cancellations = Cancellations()

    async def work() -> None:
        with cancellations.heeding(ONE):
            await asyncio.Event().wait()

    running = asyncio.create_task(work())
    await asyncio.sleep(0)
    cancellations.tell(ONE, "not needed")
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_ended_hears_nothing() -> None:
    cancellations = Cancellations()
    with cancellations.heeding(ONE):
        pass

    cancellations.tell(ONE, "late")

    await asyncio.sleep(0)


async def test_the_oldest_are_forgotten_first() -> None:
    cancellations = Cancellations(ids_max=2)
    for each in (ONE, TWO, THREE):
        cancellations.tell(each, "not needed")

    with cancellations.heeding(ONE):
        pass
    with pytest.raises(WorkStoppedError), cancellations.heeding(TWO):
        pytest.fail("it began")


async def test_a_reader_knows_the_cancels_of_a_while_ago_and_hears_the_new_ones() -> None:
    # given a log with two cancels, of which one is older than the look-back, and something that is no cancel
    log = MemoryLog({WORK_CANCELLED.name: 1})
    log.append(WORK_CANCELLED.name, key=b"r", value=a_cancel(ONE), partition=0)
    log.append(WORK_CANCELLED.name, key=b"r", value=b"?", partition=0)
    recent = log.append(WORK_CANCELLED.name, key=b"r", value=a_cancel(TWO), partition=0)
    cancellations, letters = Cancellations(), Letters()
    reader = CancellationReader(
        log, cancellations, letters.aside(recent.timestamp), look_back_ms=1, at_ms=recent.timestamp
    )
    reading = asyncio.create_task(reader.run(asyncio.Event()))

    # when it has caught up, then it knows the recent one
    assert await reader.caught_up(SECONDS)
    with cancellations.heeding(ONE):
        pass
    with pytest.raises(WorkStoppedError), cancellations.heeding(TWO):
        pytest.fail("it began")

    # and what comes while it reads stops what runs
    async with asyncio.timeout(SECONDS):
        with pytest.raises(WorkStoppedError), cancellations.heeding(THREE):  # noqa: PT012 - the cancel comes while it waits
            log.append(WORK_CANCELLED.name, key=b"r", value=b"??", partition=0)
            log.append(WORK_CANCELLED.name, key=b"r", value=a_cancel(THREE), partition=0)
            await asyncio.Event().wait()

    # and what is no cancel is set aside by who heard it come, once
    assert [letter.value for letter in letters.sent if letter.value == b"??"] == [b"??"]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_a_reader_waits_for_nobody_who_does_not_answer() -> None:
    log = MemoryLog({WORK_CANCELLED.name: 1})
    log.go_away()
    reader = CancellationReader(log, Cancellations(), Letters().aside())
    stop = asyncio.Event()
    reading = asyncio.create_task(reader.run(stop))

    caught_up = await reader.caught_up(0.01)

    assert not caught_up
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)

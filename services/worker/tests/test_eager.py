"""Tests of running a coroutine until a deadline."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from services.worker.eager import DeadlineReachedError, within


async def test_a_coroutine_that_never_waits_returns_its_value() -> None:
    async def value() -> int:
        return 3

    assert await within(1.0, value(), nullcontext) == 3


async def test_a_coroutine_that_waits_often_gets_what_it_waits_for() -> None:
    async def total() -> int:
        loop, found = asyncio.get_running_loop(), 0
        for number in range(3):
            future: asyncio.Future[int] = loop.create_future()
            loop.call_soon(future.set_result, number)
            found += await future
            await asyncio.sleep(0)
        return found

    assert await within(1.0, total(), nullcontext) == 3


async def test_exceptions_come_through_and_can_be_caught_inside() -> None:
    async def catches() -> str:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, ValueError("inner"))
        try:
            await future
        except ValueError:
            return "caught"
        return "missed"

    async def raises(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise TimeoutError("the task's own")

    assert await within(1.0, catches(), nullcontext) == "caught"
    for wait in (False, True):
        with pytest.raises(TimeoutError, match="the task's own"):
            await within(1.0, raises(wait), nullcontext)


async def test_at_the_deadline_the_coroutine_is_stopped_and_cleans_up() -> None:
    cleaned: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("up")

    with pytest.raises(DeadlineReachedError):
        await within(0.01, waits(), nullcontext)
    assert cleaned == ["up"]


async def test_a_cancellation_from_outside_is_a_cancellation() -> None:
    async def waits() -> Any:
        await asyncio.Event().wait()

    running = asyncio.create_task(within(60.0, waits(), nullcontext))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_several_can_wait_in_one_task_group() -> None:
    async def one(number: int) -> int:
        await asyncio.sleep(0)
        return number

    assert await asyncio.gather(*(within(1.0, one(number), nullcontext) for number in range(5))) == [0, 1, 2, 3, 4]


async def test_only_who_waits_enters_the_context() -> None:
    entered: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    async def waits(times: int) -> int:
        for _ in range(times):
            await asyncio.sleep(0)
        return times

    assert await within(1.0, waits(0), context) == 0
    assert entered == []
    assert await within(1.0, waits(2), context) == 2
    assert entered == ["in", "out"]

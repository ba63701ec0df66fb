"""Owns running a coroutine until a deadline, at no cost for one that never waits: most tasks are done in one step."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Final


class DeadlineReachedError(Exception):
    """The coroutine was stopped at its deadline."""


async def within(seconds: float, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns. Raises DeadlineReachedError, and whatever the coroutine raises."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        return end.value
    try:
        async with asyncio.timeout(seconds) as limit:
            return await _Rest(coroutine, waits_for)
    except TimeoutError as error:
        if limit.expired():
            raise DeadlineReachedError from error
        raise


class _Rest:
    """The rest of a coroutine that has begun to wait. What it yields goes to the same task, as if it were awaited."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine: Final = coroutine
        self._waits_for: Final = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation too belongs to the coroutine
                thrown: BaseException | None = error
            else:
                thrown = None
            try:
                waits_for = self._coroutine.send(sent) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as end:
                return end.value

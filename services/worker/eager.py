"""Owns running a coroutine until a deadline, at no cost for one that never waits: most tasks are done in one step."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

from penstock.runtime.eager import Rest


class DeadlineReachedError(Exception):
    """The coroutine was stopped at its deadline."""


async def within(
    seconds: float, coroutine: Coroutine[Any, Any, Any], while_waiting: Callable[[], AbstractContextManager[Any]]
) -> Any:
    """What the coroutine returns; where it waits, it does so in the context that `while_waiting` makes.

    Raises DeadlineReachedError, and whatever the coroutine and the context raise.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        return end.value
    try:
        with while_waiting():
            async with asyncio.timeout(seconds) as limit:
                return await Rest(coroutine, waits_for)
    except TimeoutError as error:
        if limit.expired():
            raise DeadlineReachedError from error
        raise

"""Owns who may be in an engine together: everybody, or one suspect and nobody else."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final


class Company:
    """A suspect waits until all others have left; while one waits or is in, others wait."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone_inside = False
        self._suspects: Final[deque[asyncio.Future[None]]] = deque()
        self._others: Final[deque[asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, *, alone: bool) -> AsyncIterator[None]:
        """A place in the engine, by itself or with others. Entering costs nothing while nobody is suspected."""
        if alone:
            if self._inside or self._suspects:
                await self._wait(self._suspects)
            else:
                self._enter(alone=True)
        elif self._alone_inside or self._suspects:
            await self._wait(self._others)
        else:
            self._enter(alone=False)
        try:
            yield
        finally:
            self._inside -= 1
            if alone:
                self._alone_inside = False
            self._admit()

    def _enter(self, *, alone: bool) -> None:
        self._inside += 1
        self._alone_inside = alone

    async def _wait(self, queue: "deque[asyncio.Future[None]]") -> None:
        """Returns with the place taken: whoever leaves enters for those whom it wakes."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # woken and cancelled at once: the place is given back
                self._inside -= 1
                self._alone_inside = False
            else:
                queue.remove(turn)
            self._admit()
            raise

    def _admit(self) -> None:
        """Suspects first, one after another without anybody in between; then all others."""
        if self._alone_inside:
            return
        if self._suspects:
            if not self._inside:
                self._enter(alone=True)
                self._suspects.popleft().set_result(None)
            return
        while self._others:
            self._enter(alone=False)
            self._others.popleft().set_result(None)

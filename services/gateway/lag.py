"""Owns asking the broker how far each group is behind: rarely, however often it is asked."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from penstock.runtime.kafka.admin import GroupLag

FRESH_MS: Final = 2_000
ASK_SECONDS: Final = 10.0

Ask = Callable[[], Awaitable[Sequence[GroupLag]]]


class LagProbe:
    """One question at a time, its answer kept for FRESH_MS."""

    def __init__(self, ask: Ask, clock_ms: Callable[[], int]) -> None:
        self._ask = ask
        self._clock_ms = clock_ms
        self._lock = asyncio.Lock()
        self._answer: Sequence[GroupLag] = ()
        self._at_ms = 0

    async def read(self) -> tuple[int, Sequence[GroupLag]]:
        """When it was asked, and the answer. Raises TimeoutError where the broker is away."""
        async with self._lock:
            if self._clock_ms() - self._at_ms >= FRESH_MS:
                async with asyncio.timeout(ASK_SECONDS):
                    self._answer = await self._ask()
                self._at_ms = self._clock_ms()
            return self._at_ms, self._answer

"""Owns waking the event streams: who waits for which run, told after each committed batch.

Streams read what they send from the tables, so that a slow client costs no memory and misses nothing. A batch that
another instance of the gateway wrote wakes nobody here: streams also look by themselves, every POLL_SECONDS.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import UUID

from services.gateway.read_models.fold import Batch

POLL_SECONDS = 1.0


class Live:
    """The runs that are watched on this instance."""

    def __init__(self) -> None:
        self._watched: dict[UUID, set[asyncio.Event]] = {}
        self._definitions = asyncio.Event()
        self.open = 0

    @contextlib.contextmanager
    def watching(self, run_key: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run has news."""
        news = asyncio.Event()
        self._watched.setdefault(run_key, set()).add(news)
        self.open += 1
        try:
            yield news
        finally:
            self.open -= 1
            watchers = self._watched[run_key]
            watchers.discard(news)
            if not watchers:
                del self._watched[run_key]

    def written(self, batch: Batch) -> None:
        """A batch is in the tables."""
        if batch.definitions or batch.aliases:
            self._definitions.set()
            self._definitions = asyncio.Event()
        if not self._watched:
            return
        for run_key in self._watched.keys() & batch.runs.keys():
            for news in self._watched[run_key]:
                news.set()

    async def definition(self) -> None:
        """Returns when a definition or an alias has come, or after POLL_SECONDS."""
        await wait_for_news(self._definitions)


async def wait_for_news(news: asyncio.Event) -> None:
    """Returns when there is news, or after POLL_SECONDS."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(news.wait(), POLL_SECONDS)
    news.clear()

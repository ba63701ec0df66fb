"""Owns waking the event streams: who waits for which run, told after each batch that any gateway committed.

Streams read what they send from the tables, so that a slow client costs no memory and misses nothing. What another
gateway wrote comes by NOTIFY (services/gateway/news.py); while that connection is away, streams look by themselves.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final
from uuid import UUID

from services.gateway.read_models.fold import Batch

LOOK_SECONDS: Final = 1.0
"""How long who is not told waits before it looks."""
TOLD_LOOK_SECONDS: Final = 15.0
"""And who is told: a connection can be dead without a word."""


class Live:
    """The runs that are watched on this instance."""

    def __init__(self) -> None:
        self._watched: dict[UUID, set[asyncio.Event]] = {}
        self._definitions = asyncio.Event()
        self.open = 0
        self.told = asyncio.Event()
        """Whether other gateways' news comes in."""

    @property
    def look_seconds(self) -> float:
        """How long to wait for news before one looks without."""
        return TOLD_LOOK_SECONDS if self.told.is_set() else LOOK_SECONDS

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
        """This instance's batch is in the tables."""
        self.wake(batch.runs.__contains__, definitions=bool(batch.definitions or batch.aliases))

    def wake(self, changed: Callable[[UUID], bool], *, definitions: bool = False) -> None:
        """There is news of the runs for which `changed` holds."""
        if definitions:
            self._definitions.set()
            self._definitions = asyncio.Event()
        for run_key, watchers in self._watched.items():
            if changed(run_key):
                for news in watchers:
                    news.set()

    def wake_all(self) -> None:
        """There may be news of any run."""
        self.wake(lambda _: True, definitions=True)

    async def definition(self) -> None:
        """Returns when a definition or an alias has come, or after LOOK_SECONDS."""
        await wait_for_news(self._definitions, LOOK_SECONDS)


async def wait_for_news(news: asyncio.Event, seconds: float) -> None:
    """Returns when there is news, or after so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(news.wait(), seconds)
    news.clear()

"""Owns how often a client asks for the cluster's layout: aiokafka asks again at once, for as long as it gets nowhere.

Its fetcher and its sender, where a partition has no known leader, ask for the layout, wait for that answer, and look
again. A broker that refuses connections gives that answer, a failure, within a fraction of a millisecond, so that the
loop turns some thousand times a second; so does one that answers at once that an election is still going on. A broker
that is stopped in an orderly way can tell its clients first that its partitions have no leader: then an outage is spent
like this. `retry_backoff_ms` is not looked at there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

PAUSE_SECONDS_MIN: Final = 0.1
"""Between two questions, from the start of one to the start of the next."""
PAUSE_SECONDS_MAX: Final = 1.0
"""While nothing answers: how long a broker that is back can go unnoticed."""

Ask = Callable[[Any, Any], Awaitable[bool]]


class PacedLayout:
    """Asks as its client does, but never twice at once: with a pause that doubles while nothing answers."""

    def __init__(self, ask: Ask, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._ask: Final = ask
        self._clock: Final = clock
        self._sleep: Final = sleep
        self._pause_seconds = PAUSE_SECONDS_MIN
        self._not_before = 0.0

    async def __call__(self, cluster: Any, topics: Any) -> bool:
        """Whether the layout is known now. `cluster` and `topics` as the client has them."""
        wait_seconds = self._not_before - self._clock()
        if wait_seconds > 0:
            await self._sleep(wait_seconds)
        self._not_before = self._clock() + self._pause_seconds
        answered = await self._ask(cluster, topics)
        self._pause_seconds = PAUSE_SECONDS_MIN if answered else min(self._pause_seconds * 2, PAUSE_SECONDS_MAX)
        return answered


def pace(client: Any) -> None:
    """Let an AIOKafkaClient ask for its layout at this pace, from its next question on."""
    if not isinstance(client._metadata_update, PacedLayout):
        clock = asyncio.get_running_loop().time
        client._metadata_update = PacedLayout(client._metadata_update, clock, asyncio.sleep)

"""Owns news between gateways: what one writes to the tables wakes the streams of all others, by NOTIFY.

A notification holds who wrote and the first digits of the keys of the runs that changed: 24 bits, so that a batch of
thousands of runs fits into a few. Two runs that share them wake each other's streams, which look and find nothing.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final
from uuid import UUID

import asyncpg

from penstock.runtime.postgres import AWAY, CONNECT_SECONDS
from penstock.runtime.telemetry import logger
from services.gateway.live import Live
from services.gateway.telemetry import LogEvent

CHANNEL: Final = "penstock_news"
DIGITS: Final = 6
DEFINITIONS: Final = "*" * DIGITS
"""In the place of a run: a definition or an alias has come."""
PAYLOAD_CHARACTERS_MAX: Final = 7_900
"""Postgres takes less than 8,000 bytes."""
RETRY_SECONDS_MAX: Final = 5.0


def payloads(writer: str, runs: Iterable[UUID], *, definitions: bool) -> Iterator[str]:
    """What is said of a batch: a writer, a space, and short names of what changed, one behind the other."""
    names = "".join([DEFINITIONS if definitions else "", *(short(run_key) for run_key in runs)])
    head = f"{writer} "
    room = (PAYLOAD_CHARACTERS_MAX - len(head.encode())) // DIGITS * DIGITS
    for first in range(0, len(names), room):
        yield head + names[first : first + room]


def short(run_key: UUID) -> str:
    """How a run is called in a notification."""
    return run_key.hex[:DIGITS]


class News:
    """Listens for what other gateways wrote, and tells this one's streams."""

    def __init__(self, url: str, instance: str, live: Live) -> None:
        self._url: Final = url
        self._instance: Final = instance
        self._live: Final = live
        self._lost = asyncio.Event()

    async def listen(self, stop: asyncio.Event) -> None:
        """Until the service stops, whatever becomes of the connection; then every stream is woken to end."""
        stopped = asyncio.create_task(stop.wait())
        stopped.add_done_callback(lambda _: self._live.wake_all())
        wait_seconds = 0.1
        while not stop.is_set():
            try:
                connection = await self._connected()
            except AWAY as error:
                logger("news").warning(LogEvent.NEWS_AWAITED, reason=repr(error))
                await asyncio.wait((stopped,), timeout=wait_seconds)
                wait_seconds = min(wait_seconds * 2, RETRY_SECONDS_MAX)
                continue
            wait_seconds = 0.1
            lost = asyncio.create_task(self._lost.wait())
            await asyncio.wait((stopped, lost), return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            self._live.told.clear()
            self._live.wake_all()  # to look by themselves from now on
            with contextlib.suppress(*AWAY):
                await connection.close(timeout=CONNECT_SECONDS)

    async def _connected(self) -> Any:
        self._lost.clear()
        connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
        connection.add_termination_listener(lambda _: self._lost.set())
        await connection.add_listener(CHANNEL, self._heard)
        self._live.told.set()
        self._live.wake_all()  # of what was written before, nobody was told
        return connection

    def _heard(self, _connection: object, _process: int, _channel: str, payload: object) -> None:
        writer, _, names = str(payload).rpartition(" ")
        if writer == self._instance:
            return  # its streams were told when the batch was written
        changed = {names[first : first + DIGITS] for first in range(0, len(names), DIGITS)}
        self._live.wake(lambda run_key: short(run_key) in changed, definitions=DEFINITIONS in changed)

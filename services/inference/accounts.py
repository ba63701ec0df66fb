"""Owns telling the account of each engine: a record per stretch of its time, without a gap, up to its end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from penstock.contracts.envelope import Envelope, Outgoing, encode, rfc3339
from penstock.contracts.ids import event_id
from penstock.contracts.messages import EngineMetered
from penstock.contracts.topics import ENGINE_METERED
from penstock.runtime.clock import now_ms
from penstock.runtime.errors import NotAcknowledged
from penstock.runtime.telemetry import logger
from services.inference.events import Event
from services.inference.station import Stations

CLOSE_SECONDS: Final = 5.0
SOURCE: Final = "penstock/inference"

Send = Callable[[Sequence[Outgoing]], Awaitable[None]]

_log = logger("accounts")


class Accounts:
    """Tells what the engines of this process cost. A record that the broker did not take goes with the next ones."""

    def __init__(self, stations: Stations, pool: str, send: Send, every_seconds: float) -> None:
        self._stations: Final = stations
        self._pool: Final = pool
        self._send: Final = send
        self._every_seconds: Final = every_seconds
        self._unsent: list[Outgoing] = []

    async def run(self) -> None:
        """Tells at once, so that a life that ends badly and soon is known of, then now and then until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(self._every_seconds)

    async def close(self) -> None:
        """The last stretch. Where the broker does not take it in time, the session stays open, as after a crash."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.tell(closed=True)
        except TimeoutError:
            _log.warning(Event.ACCOUNT_UNSENT, records=len(self._unsent), error="no answer in time")

    async def tell(self, *, closed: bool = False) -> None:
        """The stretch up to now; `closed` where no call will follow."""
        # While the broker is away no stretch is cut: the one that follows is longer, and nothing piles up.
        for station in self._stations if closed or not self._unsent else ():
            told = station.meter.stretch(
                pool=self._pool, models=station.models, simulated=station.engine.simulated, closed=closed
            )
            if told is not None:
                self._unsent.append(_record(told))
        records = list(self._unsent)
        if not records:
            return
        try:
            await self._send(records)
        except NotAcknowledged as error:
            _log.warning(Event.ACCOUNT_UNSENT, records=len(records), error=str(error))
            return
        del self._unsent[: len(records)]


def _record(told: EngineMetered) -> Outgoing:
    envelope = Envelope(
        id=event_id(told.engine_session, f"{ENGINE_METERED.event_type}/{told.sequence}"),
        type=ENGINE_METERED.event_type,
        source=SOURCE,
        time=rfc3339(now_ms()),
    )
    return encode(ENGINE_METERED, told, envelope, key=told.engine)

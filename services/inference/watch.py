"""Owns whether the engine is there: probed while it is away or in doubt, so that a restart costs no request a try."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Literal

from penstock.runtime.health import Health
from penstock.runtime.telemetry import logger
from services.inference.engines.protocol import Engine, EngineFailedError
from services.inference.events import Event

PART: Final = "engine"
DOWN_PROBE_SECONDS: Final = 0.5
UP_PROBE_SECONDS: Final = 15.0
OUTAGE_WAIT_SECONDS: Final = 15.0
"""How long a call waits for an engine that is away before the step is told to go elsewhere."""

_log = logger("engine")


class EngineWatch:
    """Holds calls back while nobody answers: what is not fetched waits in Kafka for whoever can do it."""

    def __init__(
        self, engine: Engine, health: Health, *, outage_wait_seconds: float = OUTAGE_WAIT_SECONDS, part: str = PART
    ) -> None:
        """`part` is what the health page calls it."""
        self._engine: Final = engine
        self._health: Final = health
        self._part: Final = part
        self._outage_wait_seconds: Final = outage_wait_seconds
        self._up: Final = asyncio.Event()
        self._in_doubt: Final = asyncio.Event()
        self._started = False
        self._was_up = False
        self.detail = "not probed yet"
        """What the last probe found, in words."""
        health.set_ready(part, False, "not probed yet")

    @property
    def state(self) -> Literal["starting", "up", "away"]:
        """Whether it takes work: from its first answer on, while the last probe found it."""
        if self._up.is_set():
            return "up"
        return "away" if self._was_up else "starting"

    @property
    def up(self) -> bool:
        """Whether the last probe found it."""
        return self._up.is_set()

    def suspect(self) -> None:
        """A call found nobody there: probe at once."""
        self._up.clear()
        self._in_doubt.set()

    async def wait_up(self, seconds: float) -> None:
        """Returns once the engine answers, or when waiting longer helps nobody."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(seconds, self._outage_wait_seconds)):
                await self._up.wait()

    async def wait_for_ever(self) -> None:
        """Returns once the engine answers."""
        await self._up.wait()

    async def run(self) -> None:
        """Starts the engine, then probes until cancelled."""
        while True:
            self._in_doubt.clear()
            up = await self._probe()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UP_PROBE_SECONDS if up else DOWN_PROBE_SECONDS):
                    await self._in_doubt.wait()

    async def _probe(self) -> bool:
        was_up = self._up.is_set()
        try:
            if not self._started:
                await self._engine.start()
                self._started = True
            detail = await self._engine.probe()
        except EngineFailedError as error:
            self._up.clear()
            self.detail = str(error)
            self._health.set_ready(self._part, False, str(error))
            if was_up:
                _log.warning(Event.ENGINE_AWAY, engine=self._engine.name, error=str(error))
            return False
        if self._in_doubt.is_set():
            return False  # a call failed while we asked: ask again before letting others in
        self._up.set()
        self._was_up, self.detail = True, detail
        self._health.set_ready(self._part, True, detail)
        if not was_up:
            _log.info(Event.ENGINE_UP, engine=self._engine.name, detail=detail)
        return True


async def first_up(watches: Sequence[EngineWatch], stop: asyncio.Event) -> None:
    """Returns once any engine has answered for the first time, or when the service stops."""
    waits = [asyncio.ensure_future(watch.wait_for_ever()) for watch in watches]
    waits.append(asyncio.ensure_future(_set(stop)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _set(event: asyncio.Event) -> None:
    await event.wait()

"""Owns what this process says of its engines' room: a record when there is news, and now and then when there is none.

An idle engine costs a comparison every TICK_SECONDS and a record every ten seconds.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from penstock.contracts.envelope import Envelope, Outgoing, encode, rfc3339
from penstock.contracts.ids import event_id
from penstock.contracts.messages import CapacityReported, EngineHealth
from penstock.contracts.topics import CAPACITY_REPORTED
from services.inference.core.reports import Figures, HealthState, Rhythm, Said
from services.inference.station import Station

TICK_SECONDS: Final = 0.5
"""How soon a change is noticed."""
SOURCE: Final = "penstock/inference"


class Sender(Protocol):
    """What the reporter needs of a publisher."""

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        """Queues records at once."""
        ...


class CapacityReporter:
    """Reports one station, under a name of its own among all processes."""

    def __init__(
        self,
        station: Station,
        sender: Sender,
        now_ms: Callable[[], int],
        *,
        pool: str,
        instance: str,
        rhythm: Rhythm | None = None,
    ) -> None:
        self._station: Final = station
        self._sender: Final = sender
        self._now_ms: Final = now_ms
        self._pool: Final = pool
        self._engine: Final = f"{instance}/{station.engine.name}"
        self._rhythm: Final = rhythm or Rhythm()
        self._sequence = 0
        self._said: Said | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Reports until cancelled; once `stop` is set the engine drains, and with the end it has stopped."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                self.look(clock(), draining=stop.is_set())
                await asyncio.sleep(TICK_SECONDS)
        finally:
            self._say("stopped", Figures(), clock())

    def look(self, at_seconds: float, *, draining: bool = False) -> None:
        """Reports what there is, if it is worth it. `at_seconds` by any clock that only goes on."""
        state: HealthState = "draining" if draining else self._station.watch.state
        figures = self._station.figures(at_seconds)
        if self._rhythm.due(self._said, state, figures, at_seconds):
            self._say(state, figures, at_seconds)

    def _say(self, state: HealthState, figures: Figures, at_seconds: float) -> None:
        self._said = Said(state, figures, at_seconds)
        self._sequence += 1
        station, at_ms = self._station, self._now_ms()
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
        session = station.meter.session
        report = CapacityReported(
            engine=self._engine,
            engine_session=session,
            sequence=self._sequence,
            pool=self._pool,
            models=sorted(station.models),
            simulated=station.engine.simulated,
            gpu_type=station.meter.billing.hardware,
            gpus=0 if station.meter.billing.hardware is None else station.meter.billing.gpus,
            health=EngineHealth(state=state, detail=station.watch.detail if state == "away" else ""),
            requests_in_flight=figures.requests_in_flight,
            requests_best=figures.requests_best,
            tokens_in_flight=figures.tokens_in_flight,
            kv_tokens_max=figures.kv_tokens_max,
            kv_tokens_free=figures.kv_tokens_free,
            requests_waiting=figures.requests_waiting,
            tokens_waiting=figures.tokens_waiting,
            tokens_per_second=round(figures.tokens_per_second, 1),
            tokens_per_second_best=figures.tokens_per_second_best,
            reported_at=at,
            expires_at=at + timedelta(seconds=self._rhythm.held_seconds),
        )
        envelope = Envelope(
            id=event_id(session, f"capacity/{self._sequence}"),
            type=CAPACITY_REPORTED.event_type,
            source=SOURCE,
            time=rfc3339(at_ms),
        )
        sent = self._sender.send([encode(CAPACITY_REPORTED, report, envelope, key=self._engine)])
        sent.add_done_callback(_forget)


def _forget(sent: "asyncio.Future[None]") -> None:
    """A report that was not delivered is void anyway: the publisher has said so, and the next one is on its way."""
    if not sent.cancelled():
        sent.exception()

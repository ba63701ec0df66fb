"""Owns one engine of this process with all that belongs to it: its models, its watch, its meter, its places."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from services.inference.core.reports import Figures
from services.inference.core.throughput import Throughput
from services.inference.engines.protocol import Engine
from services.inference.metering import EngineMeter
from services.inference.watch import EngineWatch


class Station:
    """One engine. `concurrency` calls are in it at a time; the rest waits before it and in Kafka."""

    def __init__(
        self, engine: Engine, watch: EngineWatch, meter: EngineMeter, models: frozenset[str], concurrency: int
    ) -> None:
        self.engine: Final = engine
        self.watch: Final = watch
        self.meter: Final = meter
        self.models: Final = models
        self.concurrency: Final = concurrency
        self.places: Final = asyncio.Semaphore(concurrency)
        self.throughput: Final = Throughput()

    def figures(self, at_seconds: float) -> Figures:
        """What the engine does and how much room it has. Costs nothing: it is asked for all the time."""
        load, throughput = self.engine.load(), self.throughput
        used, kv_max = load.kv_tokens_used, load.kv_tokens_max
        return Figures(
            requests_in_flight=load.running,
            requests_best=self.concurrency,
            tokens_in_flight=throughput.tokens_in_flight,
            kv_tokens_max=kv_max,
            kv_tokens_free=None if kv_max is None else max(0, kv_max - (used or 0)),
            requests_waiting=load.waiting,
            tokens_per_second=throughput.late(at_seconds),
            tokens_per_second_best=throughput.best,
        )


class Stations:
    """All engines of this process, each named once."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._all: Final = tuple(stations)

    def __iter__(self) -> Iterator[Station]:
        return iter(self._all)

    @property
    def models(self) -> frozenset[str]:
        """All models that are served here."""
        return frozenset[str]().union(*(station.models for station in self._all))

    @property
    def concurrency(self) -> int:
        """Calls that are in engines at a time, all together."""
        return sum(station.concurrency for station in self._all)

    def serving(self, model: str) -> Station | None:
        """The engine that takes a call for this model now; None where there is none."""
        return next((station for station in self._all if model in station.models), None)

"""Owns one engine of this process with all that belongs to it: its models, its watch, its meter, its gate."""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final
from uuid import UUID

from penstock.contracts.messages import TokenUsage
from services.inference.core.control import START
from services.inference.core.lanes import URGENT_FIRST
from services.inference.core.ledger import Charge
from services.inference.core.reports import Figures
from services.inference.core.throughput import Throughput
from services.inference.engines.protocol import Engine, Generation
from services.inference.gate import Gate
from services.inference.metering import EngineMeter
from services.inference.tickets import Ticket
from services.inference.watch import EngineWatch


class Station:
    """One engine. At most `concurrency` calls are in it at a time, fewer where that gives as much: its gate knows.

    `start` is with how many the gate begins, where it is known better than nothing.
    """

    def __init__(
        self,
        engine: Engine,
        watch: EngineWatch,
        meter: EngineMeter,
        models: frozenset[str],
        concurrency: int,
        start: int = START,
    ) -> None:
        self.engine: Final = engine
        self.watch: Final = watch
        self.meter: Final = meter
        self.models: Final = models
        self.concurrency: Final = concurrency
        self.gate: Final = Gate(engine.load, concurrency, start)
        self.throughput: Final = Throughput()

    def figures(self, at_seconds: float) -> Figures:
        """What the engine does and how much room it has. Costs nothing: it is asked for all the time."""
        load, throughput = self.engine.load(), self.throughput
        used, kv_max = load.kv_tokens_used, load.kv_tokens_max
        return Figures(
            requests_in_flight=load.running,
            requests_best=self.gate.best,
            tokens_in_flight=throughput.tokens_in_flight,
            kv_tokens_max=kv_max,
            kv_tokens_free=None if kv_max is None else max(0, kv_max - (used or 0)),
            requests_waiting=load.waiting + len(self.gate.schedule),
            tokens_waiting=sum(self.gate.schedule.tokens(lane) for lane in URGENT_FIRST),
            tokens_per_second=throughput.late(at_seconds),
            tokens_per_second_best=throughput.best,
        )


class Stay:
    """One call's stay in an engine, from its beginning, for all who count: meter, throughput and gate.

    Times in seconds by the loop's clock. It ends once: with `end`, or with `abandon`.
    """

    __slots__ = ("_began", "_call", "_expected_tokens", "_station", "_ticket")

    def __init__(self, ticket: Ticket, station: Station, now: float) -> None:
        self._ticket: Final = ticket
        self._station: Final = station
        self._began: Final = now
        self._expected_tokens: Final = ticket.accepted.prompt_tokens + ticket.expected_tokens
        self._call: Final = station.meter.begin()
        station.throughput.begin(self._expected_tokens, now)
        station.gate.began(ticket, now)

    def end(self, now: float, usage: TokenUsage, generation: Generation | None = None) -> tuple[Charge, float]:
        """What it has to pay, and the milliseconds that it took; `generation` is None where it did not succeed."""
        station = self._station
        charge = station.meter.end(self._call, usage)
        worked_on = usage.input + usage.output + usage.reasoning  # what came from the cache was no work
        station.throughput.end(self._expected_tokens, worked_on, now)
        station.gate.ended(self._ticket, now, generation)
        return charge, (now - self._began) * 1000

    def abandon(self, now: float) -> None:
        """Cut off and told to nobody: it has cost engine time as well, and is answered and paid for elsewhere."""
        self._station.meter.abandon(self._call)
        self._station.throughput.end(self._expected_tokens, 0, now)
        self._station.gate.ended(self._ticket, now, None)


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

    def serving(self, model: str, run_key: UUID | None = None) -> Station | None:
        """The engine that takes a call for this model now; None where there is none.

        Of several, one that answers, and of those the one that the run's key chooses: its prefix lies there. Where that
        one has a whole batch more waiting before it than another, the next that the key chooses: a prefix is computed
        again sooner than such a queue has gone.
        """
        if len(self._all) == 1:
            return self._all[0] if model in self._all[0].models else None
        able = [station for station in self._all if model in station.models]
        if len(able) < 2:
            return able[0] if able else None
        able = [station for station in able if station.watch.state == "up"] or able
        if run_key is not None:
            able.sort(key=lambda station: _chosen(run_key, station.engine.name), reverse=True)
        shortest = min(len(station.gate.schedule) for station in able)
        return next(each for each in able if len(each.gate.schedule) <= shortest + each.concurrency)


def _chosen(run_key: UUID, engine: str) -> bytes:
    """Rendezvous: an engine that comes or goes moves only the runs that are its own."""
    return blake2b(run_key.bytes + engine.encode(), digest_size=8).digest()

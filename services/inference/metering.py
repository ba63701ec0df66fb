"""Owns the bill of one engine: what its time and tokens cost, whose they are, and the account of each stretch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol
from uuid import UUID

from penstock.contracts.ids import engine_session
from penstock.contracts.messages import EngineMetered, TokenUsage
from penstock.contracts.prices import PriceList, token_cost
from services.inference.core.ledger import Call, Charge, EngineLedger, Sums
from services.inference.core.pricing import Rate, money, money_text, seconds, seconds_text
from services.inference.core.weights import PRIOR, Calibration, Weights

ENERGY_EVERY_NS: Final = 100_000_000
"""The driver is asked no more often than this; its own counter moves about as often."""


@dataclass(frozen=True, slots=True)
class Billing:
    """How this engine's calls are paid: by the token for models in the list, or by the hour of `hardware`."""

    prices: PriceList
    hardware: str | None
    gpus: int = 1
    """How many of the hardware the engine has; a price is of one."""
    weights: Weights = PRIOR
    """What tokens weigh until the engine has shown it."""

    @property
    def per_hour(self) -> Decimal:
        """What an hour of one accelerator costs; without hardware, time costs nothing."""
        return Decimal(0) if self.hardware is None else self.prices.hardware[self.hardware].price_per_hour


class EnergyCounter(Protocol):
    """What the engine's accelerators have used since some moment."""

    def millijoules(self) -> int:
        """Never falls."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """Where the account stood when it was told last."""

    sums: Sums
    at: datetime


class EngineMeter:
    """Shares one engine's time and money out among the calls in it. One session: the process' hold on the engine."""

    def __init__(
        self,
        engine: str,
        billing: Billing,
        *,
        energy: EnergyCounter | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.billing: Final = billing
        began_at_ns = wall_ns()
        self.session: Final[UUID] = engine_session(engine, began_at_ns)
        """This life of the engine."""
        self._session_text: Final = str(self.session)
        self._engine: Final = engine
        self._now_ns: Final = now_ns
        rate = Rate(billing.per_hour, billing.gpus)
        self._ledger: Final = EngineLedger(rate, now_ns(), Calibration(billing.weights))
        self._began: Final = datetime.fromtimestamp(began_at_ns // 1_000_000_000, UTC) + timedelta(
            microseconds=began_at_ns % 1_000_000_000 // 1000
        )
        self._told = Told(Sums(), self._began)
        self._sequence = 0
        self._energy: Final = energy
        self._energy_at_ns = 0
        self._energy_read = 0 if energy is None else energy.millijoules()

    def begin(self) -> Call:
        """A call reaches the engine. What is returned ends it."""
        # A place and not the request's id: a redelivery may overlap with its forerunner's last moments.
        return self._ledger.begin(self._now())

    def end(self, place: Call, usage: TokenUsage) -> Charge:
        """The call leaves the engine with what it used, and somebody will be told."""
        return self._ledger.end(place, self._now(), usage)

    def abandon(self, place: Call) -> None:
        """The call leaves the engine and is answered elsewhere: the time it took here is lost."""
        self._ledger.abandon(place, self._now_ns())

    def cost(self, model: str, usage: TokenUsage, charge: Charge | None) -> dict[str, str]:
        """A call's cost as messages have it. `charge` is None where the engine was never asked."""
        prices = self.billing.prices
        if charge is None:
            amount = "0"
        elif self.billing.hardware is not None:
            amount = money_text(charge.quanta)
        else:
            amount = format(token_cost(prices.models[model], usage), "f")
        return {"amount": amount, "currency": prices.currency, "price_version": prices.version}

    def share(self, charge: Charge) -> dict[str, str]:
        """The share of the accelerators as messages have it; empty where nothing is paid by the hour."""
        hardware = self.billing.hardware
        if hardware is None:
            return {}
        share = {
            "gpu_seconds": seconds_text(charge.share_ns * self.billing.gpus),
            "gpu_type": hardware,
            "engine_session": self._session_text,
        }
        if self._energy is not None:
            share["energy_joules"] = format(Decimal(charge.millijoules).scaleb(-3), "f")
        return share

    def stretch(
        self, *, pool: str, models: frozenset[str], simulated: bool, closed: bool = False
    ) -> EngineMetered | None:
        """The account since it was told last; None where nothing is paid by the hour, or no time has passed."""
        billing = self.billing
        if billing.hardware is None:
            return None
        now = self._ledger.advance(self._now())
        was, since = self._told.sums, self._told.at
        if now.elapsed_ns == was.elapsed_ns and not closed:
            return None
        until = self._began + timedelta(microseconds=now.elapsed_ns // 1000)
        told = EngineMetered(
            engine=self._engine,
            engine_session=self.session,
            sequence=self._sequence,
            pool=pool,
            models=sorted(models),
            simulated=simulated,
            gpu_type=billing.hardware,
            gpus=billing.gpus,
            price_per_hour=billing.per_hour,
            currency=billing.prices.currency,
            price_version=billing.prices.version,
            since=since,
            until=until,
            seconds=seconds(now.elapsed_ns - was.elapsed_ns),
            busy_seconds=seconds(now.busy_ns - was.busy_ns),
            total=money(now.total - was.total),
            idle=money(now.idle - was.idle),
            attributed=money(now.attributed - was.attributed),
            lost=money(now.lost - was.lost),
            pending=money(now.pending),
            energy_joules=None if self._energy is None else Decimal(now.millijoules - was.millijoules).scaleb(-3),
            requests=now.requests - was.requests,
            closed=closed,
        )
        self._told = Told(self._ledger.copied(), until)
        self._sequence += 1
        return told

    def _now(self) -> int:
        """The time, up to which the energy has been read."""
        now_ns = self._now_ns()
        if self._energy is not None and now_ns - self._energy_at_ns >= ENERGY_EVERY_NS:
            read = self._energy.millijoules()
            used, self._energy_read, self._energy_at_ns = max(0, read - self._energy_read), read, now_ns
            self._ledger.advance(now_ns, used)
        return now_ns

"""Owns the bill of one engine: what its time and tokens cost, and whose they are."""

import asyncio
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from uuid import UUID

from penstock.contracts.ids import engine_session
from penstock.contracts.messages import TokenUsage
from services.inference.core import pricing


@dataclass(frozen=True, slots=True)
class Billing:
    """How this engine's calls are paid: by the token for models in the list, or by the hour of `hardware`."""

    prices: pricing.PriceList
    hardware: str | None

    @property
    def per_hour(self) -> Decimal:
        """What an hour costs; without hardware, time costs nothing."""
        return Decimal(0) if self.hardware is None else self.prices.hardware[self.hardware].price_per_hour


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call has to bear: its share of the engine's time, and the money."""

    share_ns: int
    amount: Decimal


class EngineMeter:
    """Shares one engine's time and money out among the calls in it."""

    def __init__(self, engine: str, billing: Billing) -> None:
        self.billing: Final = billing
        self.session: Final[UUID] = engine_session(engine, time.time_ns())
        """This life of the engine."""
        self._clock: Final = pricing.EngineClock()
        self._money: Final = pricing.HourlyMeter(billing.per_hour)

    def begin(self) -> object:
        """A call reaches the engine. What is returned ends it."""
        place = object()  # not the request's id: a redelivery may overlap with its forerunner's last moments
        self._clock.begin(place, now_ns())
        return place

    def end(self, place: object) -> Charge:
        """The call leaves the engine, however it ended: a cancelled one has cost engine time as well."""
        share_ns = self._clock.end(place, now_ns())
        return Charge(share_ns, self._money.charge(share_ns))

    def cost(self, model: str, usage: TokenUsage, charge: Charge | None) -> dict[str, str]:
        """A call's cost as messages have it. `charge` is None where the engine was never asked."""
        prices = self.billing.prices
        if charge is None:
            amount = Decimal(0)
        elif self.billing.hardware is not None:
            amount = charge.amount
        else:
            amount = pricing.token_cost(prices.models[model], usage)
        return {"amount": format(amount, "f"), "currency": prices.currency, "price_version": prices.version}


def now_ns() -> int:
    """The loop's monotonic clock in whole nanoseconds."""
    return int(asyncio.get_running_loop().time() * 1e9)

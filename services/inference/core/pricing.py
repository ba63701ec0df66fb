"""Owns prices and the arithmetic of cost: a dated list, per token or per engine hour, to the last digit in Decimal."""

from collections.abc import Hashable
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.contracts.body import Currency
from penstock.contracts.messages import PricedCost, TokenUsage

QUANTUM: Final = Decimal("1E-12")
"""Costs are rounded to this: far below a token's price, and short enough to read."""

NANOSECONDS: Final = 1_000_000_000
NANOSECONDS_PER_HOUR: Final = 3600 * NANOSECONDS

Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class _Priced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenPrice(_Priced):
    """What a managed endpoint asks per token; the field names are LiteLLM's."""

    input_cost_per_token: Price
    output_cost_per_token: Price
    cache_read_input_token_cost: Price | None = None
    """Left out: cached input costs as much as any other."""


class HardwarePrice(_Priced):
    """What an hour of one engine's hardware costs, busy or idle."""

    price_per_hour: Price
    source: str = ""


class PriceList(_Priced):
    """Prices as they were on a day. Its version goes into every cost that is computed from it."""

    version: Annotated[str, Field(min_length=1, max_length=64)]
    effective: date
    currency: Currency = "USD"
    models: dict[str, TokenPrice] = Field(default_factory=dict)
    hardware: dict[str, HardwarePrice] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _decimals_stay_decimal(cls, value: object) -> object:
        """YAML reads 1.5e-07 as a float; its shortest text is what the author wrote."""
        return _floats_as_text(value)

    def money(self, amount: Decimal) -> PricedCost:
        """An amount in this list's currency and version."""
        return PricedCost(amount=amount, currency=self.currency, price_version=self.version)


def token_cost(price: TokenPrice, usage: TokenUsage) -> Decimal:
    """Exact: each bucket by its own price. Reasoning tokens are output tokens to whoever sends the bill."""
    cached = price.cache_read_input_token_cost
    return (
        usage.input * price.input_cost_per_token
        + usage.cached_input * (price.input_cost_per_token if cached is None else cached)
        + (usage.output + usage.reasoning) * price.output_cost_per_token
    )


class EngineClock:
    """Shares an engine's busy time among the requests in it: each instant is divided equally among those in flight.

    Whole nanoseconds; those that do not divide go to the oldest requests, so the shares always sum to the busy time.
    """

    __slots__ = ("_at_ns", "_shares", "busy_ns")

    def __init__(self) -> None:
        self._shares: Final[dict[Hashable, int]] = {}
        self._at_ns = 0
        self.busy_ns = 0

    def begin(self, request: Hashable, at_ns: int) -> None:
        """The request reaches the engine. Times never go back."""
        self._advance(at_ns)
        if request in self._shares:
            raise ValueError(f"{request!r} is in the engine already")
        self._shares[request] = 0

    def end(self, request: Hashable, at_ns: int) -> int:
        """The request leaves the engine; its share of the time, in nanoseconds."""
        self._advance(at_ns)
        return self._shares.pop(request)

    def _advance(self, at_ns: int) -> None:
        elapsed = at_ns - self._at_ns
        if elapsed < 0:
            raise ValueError("time went back")
        self._at_ns = at_ns
        if not self._shares:
            return
        self.busy_ns += elapsed
        each, rest = divmod(elapsed, len(self._shares))
        for place, request in enumerate(self._shares):
            self._shares[request] += each + (place < rest)


class HourlyMeter:
    """Turns shares of engine time into money; the rounding of one charge is carried into the next.

    So the charges so far always sum to the price of the time so far, rounded once.
    """

    __slots__ = ("_charged", "_per_hour", "charged_ns")

    def __init__(self, per_hour: Decimal) -> None:
        self._per_hour: Final = per_hour
        self._charged = Decimal(0)
        self.charged_ns = 0

    def charge(self, share_ns: int) -> Decimal:
        """What this share of the engine's time costs."""
        self.charged_ns += share_ns
        due = price_of(self._per_hour, self.charged_ns)
        amount, self._charged = due - self._charged, due
        return amount


def price_of(per_hour: Decimal, nanoseconds: int) -> Decimal:
    """The price of a span of time, rounded once."""
    return (per_hour * nanoseconds / NANOSECONDS_PER_HOUR).quantize(QUANTUM, ROUND_HALF_EVEN)


def _floats_as_text(value: object) -> object:
    match value:
        case dict():
            return {name: _floats_as_text(part) for name, part in value.items()}
        case float():
            return repr(value)
        case _:
            return value

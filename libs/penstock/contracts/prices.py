"""Owns the form of a price list: a dated file of prices per token and per hour of hardware, exact in Decimal."""

from datetime import date
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.contracts.body import Currency
from penstock.contracts.work import TokenUsage

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


def token_cost(price: TokenPrice, usage: TokenUsage) -> Decimal:
    """Exact: each bucket by its own price. Reasoning tokens are output tokens to whoever sends the bill."""
    cached = price.cache_read_input_token_cost
    return (
        usage.input * price.input_cost_per_token
        + usage.cached_input * (price.input_cost_per_token if cached is None else cached)
        + (usage.output + usage.reasoning) * price.output_cost_per_token
    )


def _floats_as_text(value: object) -> object:
    match value:
        case dict():
            return {name: _floats_as_text(part) for name, part in value.items()}
        case float():
            return repr(value)
        case _:
            return value

"""Owns the form of a price list: a dated file of prices per token and per hour of hardware, exact in Decimal.

LiteLLM's own file (`model_prices_and_context_window.json`) is one as well: its version is a hash of what it says.
"""

from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Annotated, Any, Final

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from penstock.contracts.body import Currency
from penstock.contracts.work import TokenUsage

Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


LITELLM_EFFECTIVE: Final = date(1970, 1, 1)
"""LiteLLM's file does not say since when its prices hold."""


class _Priced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenPrice(_Priced):
    """What a managed endpoint asks per token; the field names are LiteLLM's."""

    input_cost_per_token: Price
    output_cost_per_token: Price
    cache_read_input_token_cost: Price | None = None
    """Left out: cached input costs as much as any other."""
    output_cost_per_reasoning_token: Price | None = None
    """Left out: reasoning costs as much as any other output."""


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


def parsed(text: str) -> PriceList:
    """A price list from YAML or JSON, ours or LiteLLM's. Raises ValueError that says what is wrong."""
    try:
        # JSON by itself: LiteLLM's file has a megabyte, which takes YAML many seconds.
        body = orjson.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except orjson.JSONDecodeError:
        body = _yaml(text)  # YAML may begin with a bracket, too
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from None
    return PriceList.model_validate(_of_litellm(body) if _is_litellm(body) else body)


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"neither JSON nor YAML: {error}") from None


def _is_litellm(body: Any) -> bool:
    """An object of models, each with the prices and limits that LiteLLM knows of it."""
    if not isinstance(body, dict) or "version" in body or "models" in body or "hardware" in body:
        return False
    return any(isinstance(each, dict) and "input_cost_per_token" in each for each in body.values())


def _of_litellm(body: dict[str, Any]) -> dict[str, Any]:
    """The models that are paid by the token, by what of their entries is a price of ours."""
    models = {}
    for name, entry in body.items():
        if name == "sample_spec" or not isinstance(entry, dict):
            continue
        prices = {field: entry[field] for field in TokenPrice.model_fields if entry.get(field) is not None}
        if {"input_cost_per_token", "output_cost_per_token"} <= prices.keys():
            models[name] = prices
    said = orjson.dumps(models, option=orjson.OPT_SORT_KEYS)
    return {"version": f"litellm-{sha256(said).hexdigest()[:12]}", "effective": LITELLM_EFFECTIVE, "models": models}


def token_cost(price: TokenPrice, usage: TokenUsage) -> Decimal:
    """Exact: each bucket by its own price."""
    cached = price.cache_read_input_token_cost
    reasoning = price.output_cost_per_reasoning_token
    return (
        usage.input * price.input_cost_per_token
        + usage.cached_input * (price.input_cost_per_token if cached is None else cached)
        + usage.output * price.output_cost_per_token
        + usage.reasoning * (price.output_cost_per_token if reasoning is None else reasoning)
    )


def _floats_as_text(value: object) -> object:
    match value:
        case dict():
            return {name: _floats_as_text(part) for name, part in value.items()}
        case float():
            return repr(value)
        case _:
            return value

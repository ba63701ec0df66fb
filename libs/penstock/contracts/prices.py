"""Owns the form of a price list: a dated file of prices per token and per hour of hardware, exact in Decimal.

LiteLLM's own file (`model_prices_and_context_window.json`) is one as well: its version is a hash of what it says.
"""

import re
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
INCLUSIVE: Final = frozenset({"xai"})
"""Providers whose tiers begin at the number in the field's name, not above it."""
BY_LENGTH: Final = (
    "input_cost_per_token",
    "output_cost_per_token",
    "cache_read_input_token_cost",
    "output_cost_per_reasoning_token",
)
"""The prices that may depend on how long a prompt is."""
_ABOVE: Final = re.compile(rf"(?P<price>{'|'.join(BY_LENGTH)})_above_(?P<count>[0-9]{{1,9}})(?P<thousands>k?)_tokens")


class _Priced(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PriceTier(_Priced):
    """What a request is charged, all of it, whose prompt is longer; what is left out stays as it is."""

    above_tokens: Annotated[int, Field(ge=0)]
    """Of the prompt, cached ones too."""
    input_cost_per_token: Price
    output_cost_per_token: Price | None = None
    cache_read_input_token_cost: Price | None = None
    output_cost_per_reasoning_token: Price | None = None


class TokenPrice(_Priced):
    """What a managed endpoint asks per token; the field names are LiteLLM's.

    A price for longer prompts is `…_above_200k_tokens` (any number, with or without `k`) of any of the first four.
    """

    input_cost_per_token: Price
    output_cost_per_token: Price
    cache_read_input_token_cost: Price | None = None
    """Left out: cached input costs as much as any other."""
    output_cost_per_reasoning_token: Price | None = None
    """Left out: reasoning costs as much as any other output."""
    tiers: tuple[PriceTier, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _tiers_by_their_names(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        plain: dict[str, Any] = {}
        tiers: dict[int, dict[str, Any]] = {}
        for name, price in value.items():
            found = _ABOVE.fullmatch(str(name))
            if found is None:
                plain[name] = price
            else:
                above = _above(found)
                tiers.setdefault(above, {"above_tokens": above})[found["price"]] = price
        return {**plain, "tiers": [tiers[above] for above in sorted(tiers)]} if tiers else plain


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
        prices = _flat(entry) | _above_lengths(entry) | _of_ranges(entry.get("tiered_pricing"))
        if {"input_cost_per_token", "output_cost_per_token"} <= prices.keys():
            models[name] = prices
    said = orjson.dumps(models, option=orjson.OPT_SORT_KEYS)
    return {"version": f"litellm-{sha256(said).hexdigest()[:12]}", "effective": LITELLM_EFFECTIVE, "models": models}


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    return {field: entry[field] for field in BY_LENGTH if entry.get(field) is not None}


def _above_lengths(entry: dict[str, Any]) -> dict[str, Any]:
    """The prices of longer prompts: as LiteLLM does, only of lengths from which prompts have a price of their own."""
    found = [(name, _ABOVE.fullmatch(name)) for name, price in entry.items() if price is not None]
    named = [(name, each["price"], _above(each)) for name, each in found if each is not None]
    lengths = {above for _, price, above in named if price == BY_LENGTH[0]}
    less = 1 if entry.get("litellm_provider") in INCLUSIVE else 0
    return {_priced_above(price, above - less): entry[name] for name, price, above in named if above in lengths}


def _of_ranges(ranges: Any) -> dict[str, Any]:
    """`tiered_pricing` of some providers: a price list for each range of lengths, from which on above to with."""
    if not isinstance(ranges, list):
        return {}
    made: dict[str, Any] = {}
    for part in ranges:
        if not isinstance(part, dict) or not part.get("range") or BY_LENGTH[0] not in part:
            continue
        above = int(part["range"][0])
        prices = {
            BY_LENGTH[2]: part[BY_LENGTH[0]],
            **_flat(part),
        }  # what is cached is input where nothing is said of it
        made |= {field if above == 0 else _priced_above(field, above): price for field, price in prices.items()}
    return made


def _priced_above(field: str, above: int) -> str:
    return f"{field}_above_{above}_tokens"


def _above(found: re.Match[str]) -> int:
    return int(found["count"]) * (1000 if found["thousands"] else 1)


def by_length(price: TokenPrice, prompt_tokens: int) -> TokenPrice:
    """The prices of a request with a prompt of this length: those of the highest tier that it is above."""
    reached = [tier for tier in price.tiers if prompt_tokens > tier.above_tokens]
    if not reached:
        return price
    tier = max(reached, key=lambda each: each.above_tokens)
    return price.model_copy(update=tier.model_dump(exclude={"above_tokens"}, exclude_none=True))


def token_cost(price: TokenPrice, usage: TokenUsage) -> Decimal:
    """Of one request, exact: each bucket by its own price, in the tier that its prompt is in."""
    price = by_length(price, usage.input + usage.cached_input)
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

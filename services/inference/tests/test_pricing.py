"""Tests of cost arithmetic: whatever happens, the parts sum to the whole to the last digit."""

from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.contracts.messages import TokenUsage
from penstock.contracts.prices import PriceList, TokenPrice, parsed, token_cost
from services.inference.core.pricing import Rate, money, money_text, seconds, seconds_text
from services.inference.settings import PRICES

PRICE = st.decimals(min_value=0, max_value=1000, allow_nan=False, places=6)
COUNT = st.integers(0, 10**7)
USAGE = st.builds(TokenUsage, input=COUNT, cached_input=COUNT, output=COUNT, reasoning=COUNT)


@given(PRICE, st.integers(1, 64), st.integers(0, 10**16))
def test_a_rate_is_exact_to_the_quantum(per_hour: Decimal, gpus: int, nanoseconds: int) -> None:
    exact = per_hour * gpus * nanoseconds / 3_600_000_000_000

    assert 0 <= exact - money(Rate(per_hour, gpus).quanta(nanoseconds)) < Decimal("1.001E-12")


@given(st.integers(0, 10**25))
def test_an_amount_as_text_is_the_decimal_in_full(units: int) -> None:
    assert money_text(units) == format(money(units), "f")
    assert seconds_text(units) == format(seconds(units), "f")


def test_an_hour_of_eight_accelerators_costs_eight_prices() -> None:
    assert money(Rate(Decimal("2.60"), 8).quanta(3600 * 10**9)) == Decimal("20.80")
    assert seconds(1_500_000_001) == Decimal("1.500000001")


@given(USAGE, USAGE, PRICE, PRICE, st.none() | PRICE)
def test_token_costs_are_additive(
    one: TokenUsage, other: TokenUsage, given_input: Decimal, output: Decimal, cached: Decimal | None
) -> None:
    price = TokenPrice(
        input_cost_per_token=given_input, output_cost_per_token=output, cache_read_input_token_cost=cached
    )
    both = TokenUsage(**{name: getattr(one, name) + getattr(other, name) for name in TokenUsage.model_fields})

    assert token_cost(price, one) + token_cost(price, other) == token_cost(price, both)


def test_each_bucket_has_its_price_and_reasoning_is_output() -> None:
    price = TokenPrice(
        input_cost_per_token=Decimal(1), output_cost_per_token=Decimal(100), cache_read_input_token_cost=Decimal(10)
    )

    assert token_cost(price, TokenUsage(input=1, cached_input=2, output=3, reasoning=4)) == 1 + 20 + 300 + 400


def test_the_price_file_is_valid_and_its_decimals_are_exact() -> None:
    prices = PriceList.model_validate(yaml.safe_load(PRICES.read_text()))

    assert prices.models["gpt-4o-mini"].input_cost_per_token == Decimal("0.00000015")
    assert prices.hardware["h100-sxm"].price_per_hour == Decimal("2.00")
    assert prices.hardware["h200-sxm"].price_per_hour == Decimal("2.60")
    assert prices.version == str(prices.effective) == "2026-11-21"


def test_a_misspelled_price_is_refused() -> None:
    with pytest.raises(ValidationError, match="input_cost_per_tokens"):
        PriceList.model_validate(
            {"version": "1", "effective": "2026-01-01", "models": {"m": {"input_cost_per_tokens": 1}}}
        )


LITELLM = """{
  "sample_spec": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "litellm_provider": "one of …"},
  "gpt-4o-mini": {
    "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07, "cache_read_input_token_cost": 7.5e-08,
    "max_input_tokens": 128000, "litellm_provider": "openai", "mode": "chat", "supports_vision": true
  },
  "thinker": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "output_cost_per_reasoning_token": 3e-06},
  "embedder": {"input_cost_per_token": 2e-08, "output_cost_per_token": 0.0, "mode": "embedding"},
  "painter": {"input_cost_per_pixel": 1.9e-08, "output_cost_per_pixel": 0.0, "mode": "image_generation"}
}"""


def test_the_file_of_litellm_is_a_price_list_of_what_is_paid_by_the_token() -> None:
    # given its file, with a sample, prices by the pixel, and what it knows beside prices
    prices = parsed(LITELLM)

    # then models that are paid by the token have their exact prices
    assert set(prices.models) == {"gpt-4o-mini", "thinker", "embedder"}
    usage = TokenUsage(input=1, cached_input=2, output=4, reasoning=8)
    assert token_cost(prices.models["gpt-4o-mini"], usage) == Decimal("1.5e-7") + 2 * Decimal("7.5e-8") + 12 * Decimal(
        "6e-7"
    )
    assert token_cost(prices.models["thinker"], usage) == Decimal("0.000035")

    # and its version follows from its prices, whatever else is in it
    assert prices.version.startswith("litellm-")
    assert parsed(LITELLM.replace("128000", "9")).version == prices.version
    assert parsed(LITELLM.replace("3e-06", "4e-06")).version != prices.version


TIERED = """{
  "long": {
    "input_cost_per_token": 1e-06, "output_cost_per_token": 8e-06, "cache_read_input_token_cost": 1e-07,
    "input_cost_per_token_above_128k_tokens": 2e-06, "output_cost_per_token_above_128k_tokens": 9e-06,
    "input_cost_per_token_above_200k_tokens": 4e-06, "cache_read_input_token_cost_above_200k_tokens": 4e-07,
    "output_cost_per_token_above_272k_tokens": 1, "input_cost_per_token_batches": 5e-07,
    "input_cost_per_token_above_200k_tokens_priority": 1, "output_cost_per_reasoning_token": 2e-05
  },
  "from": {
    "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "litellm_provider": "xai",
    "input_cost_per_token_above_128k_tokens": 3e-06, "output_cost_per_token_above_128k_tokens": 3e-06
  },
  "ranges": {
    "mode": "chat",
    "tiered_pricing": [
      {"range": [0, 32000.0], "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
      {"range": [32000.0, 128000.0], "input_cost_per_token": 5e-06, "output_cost_per_token": 6e-06}
    ]
  },
  "plain": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "tiered_pricing": null}
}"""


@pytest.mark.parametrize(
    ("model", "usage", "millionths"),
    [
        ("long", TokenUsage(input=100_000, cached_input=28_000, output=10), "102880"),
        ("long", TokenUsage(input=100_001, cached_input=28_000, output=10), "202892"),
        ("long", TokenUsage(input=200_000, output=10, reasoning=1), "400110"),
        ("long", TokenUsage(input=100_000, cached_input=100_001, output=10), "440080.4"),
        ("long", TokenUsage(input=300_000), "1200000"),
        ("from", TokenUsage(input=127_999, output=1), "128000"),
        ("from", TokenUsage(input=128_000, output=1), "384003"),
        ("ranges", TokenUsage(input=30_000, cached_input=2_000, output=1), "32002"),
        ("ranges", TokenUsage(input=30_001, cached_input=2_000, output=1), "160011"),
        ("ranges", TokenUsage(input=900_000), "4500000"),
        ("plain", TokenUsage(input=900_000, output=1), "900002"),
    ],
)
def test_a_longer_prompt_has_its_own_prices_for_all_of_the_request(
    model: str, usage: TokenUsage, millionths: str
) -> None:
    # given prices above a length, in the forms that LiteLLM's file has them in; then the highest that is reached holds
    assert token_cost(parsed(TIERED).models[model], usage) == Decimal(millionths).scaleb(-6)


def test_our_own_list_says_longer_prompts_by_the_same_names() -> None:
    prices = {"input_cost_per_token": 1, "output_cost_per_token": 2, "input_cost_per_token_above_1500_tokens": 3}
    body: dict[str, Any] = {"version": "1", "effective": "2026-01-01", "models": {"m": prices}}

    assert token_cost(PriceList.model_validate(body).models["m"], TokenUsage(input=1_501, output=1)) == 4505
    prices["output_cost_per_token_above_99_tokens"] = 3
    with pytest.raises(ValidationError, match="input_cost_per_token"):
        PriceList.model_validate(body)


LENGTHS = st.lists(st.integers(0, 1_000_000), max_size=3, unique=True).map(sorted)
RISES = st.lists(st.tuples(PRICE, PRICE, PRICE), min_size=4, max_size=4)


def a_tiered_price(lengths: list[int], rises: list[tuple[Decimal, Decimal, Decimal]]) -> dict[int, tuple[Decimal, ...]]:
    """Input, output and cached prices from each length on, none below the one before."""
    found: dict[int, tuple[Decimal, ...]] = {}
    total = (Decimal(0), Decimal(0), Decimal(0))
    for above, rise in zip([-1, *lengths], rises, strict=False):
        found[above] = total = tuple(map(sum, zip(total, rise, strict=True)))  # type: ignore[assignment]  # of three
    return found


@given(LENGTHS, RISES, USAGE, st.sampled_from(["input", "cached_input", "output", "reasoning"]), st.integers(0, 10**6))
def test_a_tiered_cost_is_the_one_by_hand_and_never_falls_with_more_tokens(
    lengths: list[int], rises: list[tuple[Decimal, Decimal, Decimal]], usage: TokenUsage, bucket: str, more: int
) -> None:
    # given tiers that do not get cheaper
    by_hand = a_tiered_price(lengths, rises)
    names = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    price = TokenPrice.model_validate(
        {
            name if above < 0 else f"{name}_above_{above}_tokens": amount
            for above, amounts in by_hand.items()
            for name, amount in zip(names, amounts, strict=True)
        }
    )

    def cost(used: TokenUsage) -> Decimal:
        tier = max(above for above in by_hand if used.input + used.cached_input > above)
        given_input, output, cached = by_hand[tier]
        return used.input * given_input + used.cached_input * cached + (used.output + used.reasoning) * output

    # then the cost is that of the tier, and more of anything costs no less
    assert token_cost(price, usage) == cost(usage)
    larger = usage.model_copy(update={bucket: getattr(usage, bucket) + more})
    assert token_cost(price, larger) >= token_cost(price, usage)


def test_our_own_form_is_read_from_yaml_and_json() -> None:
    text = PRICES.read_text()

    assert parsed(text) == PriceList.model_validate(yaml.safe_load(text))
    assert parsed('{"version": "v", "effective": "2026-01-01", "hardware": {}}').version == "v"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "a: [", '{"gpt": {}}', '{"version": "v"}', '{"m": {"input_cost_per_token": "x"']
)
def test_what_is_no_price_list_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|YAML|PriceList"):
        parsed(text)

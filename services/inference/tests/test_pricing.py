"""Tests of cost arithmetic: whatever happens, the parts sum to the whole to the last digit."""

from decimal import Decimal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.contracts.messages import TokenUsage
from services.inference.core.pricing import (
    EngineClock,
    HourlyMeter,
    PriceList,
    TokenPrice,
    price_of,
    token_cost,
)
from services.inference.settings import PRICES

PRICE = st.decimals(min_value=0, max_value=1000, allow_nan=False, places=6)
COUNT = st.integers(0, 10**7)
USAGE = st.builds(TokenUsage, input=COUNT, cached_input=COUNT, output=COUNT, reasoning=COUNT)


@given(PRICE, st.lists(st.integers(0, 10**13), max_size=50))
def test_hourly_charges_sum_to_the_price_of_the_whole_time(per_hour: Decimal, shares: list[int]) -> None:
    meter = HourlyMeter(per_hour)

    charges = [meter.charge(share) for share in shares]

    assert sum(charges, Decimal(0)) == price_of(per_hour, sum(shares))
    assert min(charges, default=Decimal(0)) >= 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**9)), max_size=60))
def test_shares_of_engine_time_sum_to_the_busy_time(script: list[tuple[int, int]]) -> None:
    # given requests that come and go as the script says
    clock, inside, at_ns, attributed, busy_ns = EngineClock(), set[int](), 0, 0, 0
    for request, elapsed_ns in script:
        at_ns += elapsed_ns
        busy_ns += elapsed_ns if inside else 0
        if request in inside:
            inside.remove(request)
            attributed += clock.end(request, at_ns)
        else:
            inside.add(request)
            clock.begin(request, at_ns)

    # when the rest leaves
    attributed += sum(clock.end(request, at_ns) for request in sorted(inside))

    # then not a nanosecond is lost or paid twice
    assert attributed == clock.busy_ns == busy_ns


def test_time_is_shared_equally_while_it_is_shared() -> None:
    clock = EngineClock()
    clock.begin("a", 1000)
    clock.begin("b", 1100)

    assert clock.end("a", 1300) == 100 + 100
    assert clock.end("b", 1350) == 100 + 50


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
    assert prices.hardware["cpu"].price_per_hour > 0
    assert prices.version == "2026-11-01"


def test_a_misspelled_price_is_refused() -> None:
    with pytest.raises(ValidationError, match="input_cost_per_tokens"):
        PriceList.model_validate(
            {"version": "1", "effective": "2026-01-01", "models": {"m": {"input_cost_per_tokens": 1}}}
        )

"""Owns the examples of tiers, prices, breakers and budgets as they are written, and of what is wrong with them."""

from decimal import Decimal
from typing import Any

import pytest

from penstock.testkit.builders import a_definition, a_model
from penstock.workflow.checks import check
from penstock.workflow.definition import Definition
from penstock.workflow.notation import load, read
from penstock.workflow.parts import Retry
from penstock.workflow.tiers import Breaker, breaker_of, routes_of

TEXT = """\
name: audit
tiers:
  small:
    routes:
      - {pool: small, model: first, in_flight_max: 20}
      - {pool: burst, model: second, price: {input_per_million: 0.15, output_per_million: "0.6"}}
    breaker: {error_rate: 0.3, slow_call_seconds: 20}
  large: [{pool: large, model: third}]
budget: {model_calls: 10, tokens: 20000, cost: {amount: 0.5, currency: USD}}
do: {id: say, model: small, prompt: Hello., step_timeout_seconds: 90, retry: {on: [retry_after]}}
"""


def said(text: str) -> list[str]:
    """The faults of a text, as people read them."""
    return [str(fault) for fault in read(text).faults]


def tier(*prices: str | None, **fields: Any) -> dict[str, Any]:
    """A tier whose routes are priced in these currencies."""
    routes = [
        {"pool": "small", "model": f"m{index}"}
        | ({"price": {"input_per_million": 1, "output_per_million": 1, "currency": price}} if price else {})
        for index, price in enumerate(prices)
    ]
    return {"routes": routes, **fields}


def test_a_tier_is_its_routes_or_an_object() -> None:
    definition = load(TEXT)

    small, large = definition.tiers["small"], definition.tiers["large"]
    assert [route.model for route in routes_of(small)] == ["first", "second"]
    assert breaker_of(small) == Breaker(error_rate=0.3, slow_call_seconds=20)
    assert ([route.model for route in routes_of(large)], breaker_of(large)) == (["third"], Breaker())
    price = routes_of(small)[1].price
    assert price is not None
    assert (price.input_per_million, price.output_per_million) == (Decimal("0.15"), Decimal("0.6"))
    assert definition.budget is not None
    assert definition.budget.cost is not None
    assert definition.budget.cost.amount == Decimal("0.5")


def test_money_is_published_as_it_was_written() -> None:
    body = load(TEXT).model_dump(mode="json")

    assert body["budget"]["cost"] == {"amount": "0.5", "currency": "USD"}
    assert body["tiers"]["small"]["routes"][1]["price"]["input_per_million"] == "0.15"
    assert Definition.model_validate(body) == load(TEXT)


def test_every_move_is_retried_unless_some_are_listed() -> None:
    assert Retry().on == ["retry_after", "retry_elsewhere", "repair_output"]


@pytest.mark.parametrize(
    ("written", "wrong", "says"),
    [
        ("in_flight_max: 20", "inflight_max: 20", "line 5: $.tiers.small.routes[0].inflight_max: there is no field"),
        ("model: third}", "mdoel: third}", "$.tiers.large[0].mdoel: there is no field `mdoel` here"),
        ("error_rate: 0.3", "error_rate: 30", "line 7: $.tiers.small.breaker.error_rate: Input should be less than"),
        ("[retry_after]", "[give_up]", "$.do.retry.on[0]: Input should be 'retry_after', 'retry_elsewhere' or"),
        ("amount: 0.5", "amount: -1", "$.budget.cost.amount: Input should be greater than or equal to 0"),
    ],
)
def test_a_limit_that_is_written_wrongly_is_named_with_its_line(written: str, wrong: str, says: str) -> None:
    (fault, *_) = [fault for fault in said(TEXT.replace(written, wrong)) if "missing" not in fault]

    assert says in fault


def test_a_breaker_that_never_opens_is_a_fault() -> None:
    definition = a_definition(a_model("say"), tiers={"small": tier(None, breaker={"window_calls": 5})})

    (fault,) = check(definition)
    assert fault.path == "$.tiers.small.breaker.calls_min"
    assert "the window holds 5 calls: it never opens" in fault.message


def test_prices_and_budget_are_in_one_currency() -> None:
    mixed = a_definition(a_model("say"), tiers={"small": tier("USD", None, "EUR")})
    other = a_definition(a_model("say"), tiers={"small": tier("EUR")["routes"]}, budget={"cost": {"amount": 1}})
    sound = a_definition(a_model("say"), tiers={"small": tier(None)}, budget={"cost": {"amount": 1}})

    assert [fault.path for fault in check(mixed)] == ["$.tiers.small.routes[2].price.currency"]
    assert [fault.path for fault in check(other)] == ["$.budget.cost.currency"]
    assert check(sound) == []


def test_an_answer_that_no_budget_has_room_for_is_a_fault() -> None:
    step = a_model("say", max_tokens=1_000)
    tokens = a_definition(step, budget={"tokens": 1_000})
    cost = a_definition(step, tiers={"small": tier("USD", "USD")}, budget={"cost": {"amount": "0.0009"}})
    unknown = a_definition(step, tiers={"small": tier("USD", None)}, budget={"cost": {"amount": "0.0009"}})

    assert [(fault.path, fault.message) for fault in check(tokens)] == [
        ("$.do.max_tokens", "an answer of 1000 tokens does not fit a budget of 1000")
    ]
    assert [fault.message for fault in check(cost)] == ["an answer of 1000 tokens costs 0.001, the budget is 0.0009"]
    assert check(unknown) == []

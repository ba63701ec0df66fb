"""Owns the checks of what may be spent: prices that fit budgets, breakers that can open, bursts with a way to go."""

from decimal import Decimal

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.definition import Definition
from penstock.workflow.faults import Path
from penstock.workflow.loops import AgentLoop, Planner
from penstock.workflow.parts import Caps, ModelStep
from penstock.workflow.tiers import Price, breaker_of, burst_of, routes_of

Asking = ModelStep | AgentLoop | Planner
"""What asks a model for an answer."""


def check_limits(checker: Checker, definition: Definition) -> None:
    """Prices and budget in one currency; breakers that can open; somewhere to burst to, and in order."""
    currency = _check_prices(checker, definition)
    budget = definition.budget
    if budget is not None and budget.cost is not None and currency not in (None, budget.cost.currency):
        text = f"the budget is in {budget.cost.currency}, the routes' prices are in {currency}"
        checker.add(("budget", "cost", "currency"), text, "costs are compared in one currency")
    for name, tier in definition.tiers.items():
        breaker = breaker_of(tier)
        if breaker.calls_min > breaker.window_calls:
            text = (
                f"calls_min is {breaker.calls_min}, but the window holds {breaker.window_calls} calls: it never opens"
            )
            checker.add(("tiers", name, "breaker", "calls_min"), text, "lower it, or raise window_calls")
        burst = burst_of(tier)
        if burst is not None and len(routes_of(tier)) == 1:
            checker.add(("tiers", name, "burst"), "the tier has one route: nothing can burst", "add a second route")
        if burst is not None and burst.standard_wait_seconds < burst.wait_seconds:
            text = f"standard calls would burst after {burst.standard_wait_seconds:g} s, interactive ones later"
            at = ("tiers", name, "burst", "standard_wait_seconds")
            checker.add(at, text, f"interactive calls burst first: at least {burst.wait_seconds:g}")


def _check_prices(checker: Checker, definition: Definition) -> str | None:
    """The one currency of all prices; None where there is no price."""
    currency: str | None = None
    for name, tier in definition.tiers.items():
        within = ("tiers", name) if isinstance(tier, list) else ("tiers", name, "routes")
        for index, route in enumerate(routes_of(tier)):
            price: Price | None = route.price
            if price is None:
                continue
            currency = currency or price.currency
            if price.currency != currency:
                text = f"this price is in {price.currency}, another one in {currency}"
                at = (*within, index, "price", "currency")
                checker.add(at, text, "costs of one run are added: price all routes in one currency")
    return currency


def check_worst_case(checker: Checker, block: Asking, place: Place) -> None:
    """The budget has room for one answer of the model at all, or it could never be asked for."""
    if checker.budget is not None:
        _check_room(checker, block, place.path, checker.budget, "the budget is")


def check_caps(checker: Checker, caps: Caps | None, path: Path) -> None:
    """A block's caps are in the prices' currency."""
    if caps is None or caps.cost is None:
        return
    prices = (route.price for tier in checker.tiers.values() for route in routes_of(tier))
    other = {price.currency for price in prices if price is not None} - {caps.cost.currency}
    if other:
        text = f"the caps are in {caps.cost.currency}, the routes' prices are in {sorted(other)[0]}"
        checker.add((*path, "cost", "currency"), text, "costs are compared in one currency")


def check_loop_model(checker: Checker, block: AgentLoop | Planner, place: Place, caps: Caps | None) -> None:
    """The workflow's budget and the loop's own caps have room for one answer of its model."""
    check_worst_case(checker, block, place)
    if caps is not None:
        _check_room(checker, block, place.path, caps, "the caps are")


def _check_room(checker: Checker, block: Asking, path: Path, limit: Caps, name: str) -> None:
    """`name` is "the budget is" or "the caps are"."""
    at = (*path, "max_tokens")
    what, whose = ("a budget", "the workflow's budget") if "budget" in name else ("caps", "the block's caps")
    hint = f"lower max_tokens, or raise {whose}"
    if limit.tokens is not None and block.max_tokens >= limit.tokens:
        checker.add(at, f"an answer of {block.max_tokens} tokens does not fit {what} of {limit.tokens}", hint)
    prices = [route.price for route in routes_of(checker.tiers.get(block.model, ()))]
    if limit.cost is None or not prices or any(price is None for price in prices):
        return
    least = min(price.output_per_million for price in prices if price is not None) * block.max_tokens / _MILLION
    if least > limit.cost.amount:
        checker.add(at, f"an answer of {block.max_tokens} tokens costs {least:f}, {name} {limit.cost.amount:f}", hint)


_MILLION = Decimal(1_000_000)

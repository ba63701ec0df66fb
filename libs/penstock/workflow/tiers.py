"""Owns tiers: where a model step's calls can go, what that costs, and when a route is left alone for a while."""

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import Discriminator, Field, StringConstraints, Tag

from penstock.contracts.body import Currency, DecimalString
from penstock.workflow.parts import Identifier, Part

Rate = Annotated[float, Field(gt=0, le=1)]


class Price(Part):
    """What a million tokens cost at most on a route: what is reserved before a call is asked for."""

    input_per_million: Annotated[DecimalString, Field(ge=0, allow_inf_nan=False)]
    output_per_million: Annotated[DecimalString, Field(ge=0, allow_inf_nan=False)]
    currency: Currency = "USD"


class Route(Part):
    """Where a tier's calls can go: a pool of engines and the model's name there."""

    pool: Identifier
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    price: Price | None = None
    """Left out, calls on this route reserve no money, only tokens and calls."""
    in_flight_max: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """With as many calls on this route in flight the next route is taken: burst."""


class Breaker(Part):
    """When a route is left alone: too many of its last calls failed, or were slow.

    Open for `open_seconds`, then half open: `probes` calls may go there. It closes when all of them went well and opens
    again with the first that does not.
    """

    error_rate: Rate = 0.5
    slow_call_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    """A call that takes longer is slow; left out, none is."""
    slow_call_rate: Rate = 0.5
    window_calls: Annotated[int, Field(ge=1, le=10_000)] = 50
    window_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """The rates are those of the last `window_calls` calls, none of them longer ago than this."""
    calls_min: Annotated[int, Field(ge=1, le=10_000)] = 10
    """With fewer calls in the window the breaker stays closed."""
    open_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    probes: Annotated[int, Field(ge=1, le=100)] = 1


class Burst(Part):
    """When calls go on to a tier's next route because the engines of one, as they report it, are too far behind.

    Only what gains by it goes: interactive calls first, standard ones later, batch calls only where their deadline
    would be missed otherwise. Where engines report nothing, `in_flight_max` alone counts.
    """

    wait_seconds: Annotated[float, Field(gt=0, le=86_400)] = 2.0
    """Interactive calls go on while they would wait longer than this for an engine."""
    standard_wait_seconds: Annotated[float, Field(gt=0, le=86_400)] = 20.0
    """The same for standard calls."""
    leave_share: Rate = 0.5
    """They stay again once the wait is below this share of the threshold."""
    dwell_seconds: Annotated[float, Field(ge=0, le=86_400)] = 15.0
    """Having changed over, they do not change back sooner."""


Routes = Annotated[list[Route], Field(min_length=1, max_length=8)]


class Tier(Part):
    """Routes in the order in which they are tried, and when to leave one alone."""

    routes: Routes
    breaker: Breaker = Breaker()
    burst: Burst | None = None
    """Left out, no route is left for another because its engines are behind."""


AnyTier = Annotated[
    Annotated[Routes, Tag("routes")] | Annotated[Tier, Tag("tier")],
    Discriminator(lambda value: "routes" if isinstance(value, list) else "tier"),
]
"""A tier is written as its routes alone, or as an object."""

_DEFAULT: Final = Breaker()


def routes_of(tier: Tier | Sequence[Route]) -> tuple[Route, ...]:
    """A tier's routes, in order, however it is written."""
    return tuple(tier.routes if isinstance(tier, Tier) else tier)


def breaker_of(tier: Tier | Sequence[Route]) -> Breaker:
    """A tier's breaker, however it is written."""
    return tier.breaker if isinstance(tier, Tier) else _DEFAULT


def burst_of(tier: Tier | Sequence[Route]) -> Burst | None:
    """When calls of a tier burst, however it is written."""
    return tier.burst if isinstance(tier, Tier) else None

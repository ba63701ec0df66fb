"""Owns what can be capped: model calls, tokens, money."""

from decimal import Decimal
from typing import Final, Literal

from penstock.contracts.messages import Budget

Cap = Literal["model_calls", "tokens", "cost"]
CAPS: Final[tuple[Cap, ...]] = ("model_calls", "tokens", "cost")


def limit_of(caps: Budget, cap: Cap) -> Decimal | int | None:
    """A cap's value; None where there is none."""
    match cap:
        case "model_calls":
            return caps.model_calls
        case "tokens":
            return caps.tokens
        case "cost":
            return None if caps.cost is None else caps.cost.amount

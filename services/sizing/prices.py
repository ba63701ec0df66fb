"""Owns what accelerators cost an hour, out of the price list that bills are made from."""

from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

from penstock.contracts.prices import parsed


class NoPricesError(ValueError):
    """The file is no price list; the message says why."""


@dataclass(frozen=True, slots=True)
class Price:
    """Of one accelerator and hour. `amount` None: the list does not have it."""

    amount: Decimal | None
    currency: str
    version: str


def price_of(accelerator: str, path: Path | None = None) -> Price:
    """What an accelerator costs by the list in a file, or by the one of inference. Raises NoPricesError."""
    source = files("services.inference").joinpath("prices.yaml") if path is None else path
    try:
        prices = parsed(source.read_text())
    except (OSError, ValueError) as error:
        raise NoPricesError(f"no price list in {source}: {error}") from None
    found = prices.hardware.get(accelerator)
    return Price(None if found is None else found.price_per_hour, prices.currency, prices.version)

"""Owns the rate of an engine's time: whole nanoseconds into whole quanta of money, without a remainder lost."""

from decimal import Decimal
from fractions import Fraction
from typing import Final

QUANTUM_DIGITS: Final = 12
"""Money is counted in 10^-12 of the currency: far below a token's price, and short enough to read."""

_QUANTA: Final = 10**QUANTUM_DIGITS

NANOSECONDS: Final = 1_000_000_000
NANOSECONDS_PER_HOUR: Final = 3600 * NANOSECONDS


def money(quanta: int) -> Decimal:
    """Quanta as an amount of the currency."""
    return Decimal(quanta).scaleb(-QUANTUM_DIGITS)


def money_text(quanta: int) -> str:
    """The same as text, which needs no decimal: every call has two of these."""
    whole, part = divmod(quanta, _QUANTA)
    return f"{whole}.{part:0{QUANTUM_DIGITS}d}"


def seconds(nanoseconds: int) -> Decimal:
    """Nanoseconds as seconds, exactly."""
    return Decimal(nanoseconds).scaleb(-9)


def seconds_text(nanoseconds: int) -> str:
    """The same as text."""
    whole, part = divmod(nanoseconds, NANOSECONDS)
    return f"{whole}.{part:09d}"


class Rate:
    """What an hour of an engine costs: the price of one accelerator, times how many it has."""

    __slots__ = ("_divisor", "_factor", "gpus", "price_per_hour")

    def __init__(self, price_per_hour: Decimal, gpus: int = 1) -> None:
        self.price_per_hour: Final = price_per_hour
        self.gpus: Final = gpus
        per_hour = Fraction(price_per_hour) * gpus * 10**QUANTUM_DIGITS / NANOSECONDS_PER_HOUR
        self._factor: Final = per_hour.numerator
        self._divisor: Final = per_hour.denominator

    def quanta(self, nanoseconds: int) -> int:
        """The price of a span since the beginning, rounded down once: differences of it add up without a gap."""
        return self._factor * nanoseconds // self._divisor

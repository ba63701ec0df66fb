"""Owns bounds on what happened: `3` is exactly that, `<= 3` and its like are what they say."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import PlainValidator

from services.rehearsal.durations import milliseconds

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_WRITTEN: Final = re.compile(r"\s*(<=|>=|<|>|=)?\s*(.+?)\s*")


@dataclass(frozen=True, slots=True)
class Bound:
    """`how` compares what happened with `limit`; `written` is what the author wrote."""

    how: str
    limit: Decimal
    written: str

    def holds(self, happened: Decimal | int) -> bool:
        """Whether what happened is within the bound."""
        return _OPERATORS[self.how](Decimal(happened), self.limit)


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise ValueError(f"`{text[:40]}` is no number") from None
    if not number.is_finite() or number < 0:
        raise ValueError(f"`{text[:40]}` is no number from 0 on")
    return number


def _bound(value: Any, read: Callable[[str], Decimal]) -> Bound:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("write a number, or a bound such as `<= 3`")  # noqa: TRY004  # pydantic translates ValueError only
    match = _WRITTEN.fullmatch(str(value))
    if match is None:
        raise ValueError("write a number, or a bound such as `<= 3`")
    return Bound(match[1] or "=", read(match[2]), str(value))


def _duration(text: str) -> Decimal:
    return Decimal(milliseconds(float(text) if re.fullmatch(r"[0-9.]+", text) else text))


CountBound = Annotated[Bound, PlainValidator(lambda value: _bound(value, _number))]
DurationBound = Annotated[Bound, PlainValidator(lambda value: _bound(value, _duration))]
"""In milliseconds, written as a duration."""

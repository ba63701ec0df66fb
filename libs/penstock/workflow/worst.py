"""Owns what worst cases are and how they add up: one after the other, at the same time, one of several, under caps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any, Final

from penstock.workflow.parts import Caps

Money = Mapping[str, Decimal]
"""Amounts by currency."""


@dataclass(frozen=True, slots=True)
class Worst:
    """What a block comes to at worst. `call_*` are of its largest single model call."""

    requests: int = 0
    undos: int = 0
    """Requests that undo what completed where the run fails: beside `requests`, and after the deadline."""
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Money = field(default_factory=dict)
    call_input_tokens: int = 0
    call_output_tokens: int = 0
    call_cost: Money = field(default_factory=dict)
    needed_seconds: float = 0.0
    """What it takes where every attempt takes its timeout, and no executor asks for a longer wait than `retry` has."""
    unpriced: frozenset[str] = frozenset()
    """Routes without a price: `cost` leaves their calls out."""
    unbounded: frozenset[str] = frozenset()
    """Model steps whose prompt only the engine's limit bounds."""
    uncounted: frozenset[str] = frozenset()
    """Blocks of which nothing can be said here, as child runs."""

    def then(self, other: "Worst") -> "Worst":
        """Both, one after the other."""
        return Worst(
            requests=self.requests + other.requests,
            undos=self.undos + other.undos,
            model_calls=self.model_calls + other.model_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=combined(self.cost, other.cost, lambda one, two: one + two),
            needed_seconds=self.needed_seconds + other.needed_seconds,
            **self._either(other),
        )

    def beside(self, other: "Worst") -> "Worst":
        """Both, at the same time."""
        return replace(self.then(other), needed_seconds=max(self.needed_seconds, other.needed_seconds))

    def otherwise(self, other: "Worst") -> "Worst":
        """One of the two, nobody knows which."""
        return Worst(
            requests=max(self.requests, other.requests),
            undos=max(self.undos, other.undos),
            model_calls=max(self.model_calls, other.model_calls),
            input_tokens=max(self.input_tokens, other.input_tokens),
            output_tokens=max(self.output_tokens, other.output_tokens),
            cost=combined(self.cost, other.cost, max),
            needed_seconds=max(self.needed_seconds, other.needed_seconds),
            **self._either(other),
        )

    def times(self, count: int, at_once: int = 1) -> "Worst":
        """The same again and again, `at_once` of them at the same time."""
        return replace(
            self,
            requests=self.requests * count,
            undos=self.undos * count,
            model_calls=self.model_calls * count,
            input_tokens=self.input_tokens * count,
            output_tokens=self.output_tokens * count,
            cost={currency: amount * count for currency, amount in self.cost.items()},
            needed_seconds=self.needed_seconds * -(-count // at_once),
        )

    def _either(self, other: "Worst") -> dict[str, Any]:
        return {
            "call_input_tokens": max(self.call_input_tokens, other.call_input_tokens),
            "call_output_tokens": max(self.call_output_tokens, other.call_output_tokens),
            "call_cost": combined(self.call_cost, other.call_cost, max),
            "unpriced": self.unpriced | other.unpriced,
            "unbounded": self.unbounded | other.unbounded,
            "uncounted": self.uncounted | other.uncounted,
        }


NOTHING: Final = Worst()


def capped(worst: Worst, caps: Caps) -> tuple[Worst, list[str]]:
    """What is left of a worst case under caps, and which of them lower it."""
    reached: list[str] = []
    if caps.model_calls is not None and worst.model_calls > caps.model_calls:
        reached.append("model_calls")
        worst = of_calls(worst, caps.model_calls)
    if caps.tokens is not None and worst.input_tokens + worst.output_tokens > caps.tokens:
        reached.append("tokens")
        input_tokens, output_tokens = min(worst.input_tokens, caps.tokens), min(worst.output_tokens, caps.tokens)
        worst = replace(worst, input_tokens=input_tokens, output_tokens=output_tokens)
    # A call without a price may be made as long as anything is left: nothing bounds what that one costs.
    money = None if worst.unpriced else caps.cost
    if money is not None and worst.cost.get(money.currency, Decimal(0)) > money.amount:
        reached.append("cost")
        worst = replace(worst, cost={**worst.cost, money.currency: money.amount})
    return worst, reached


def of_calls(worst: Worst, calls_max: int) -> Worst:
    """No more than so many model calls, each as large as the largest."""
    calls = min(worst.model_calls, calls_max)
    return replace(
        worst,
        model_calls=calls,
        input_tokens=min(worst.input_tokens, calls * worst.call_input_tokens),
        output_tokens=min(worst.output_tokens, calls * worst.call_output_tokens),
        cost={name: min(amount, calls * worst.call_cost.get(name, amount)) for name, amount in worst.cost.items()},
    )


def within(worst: Worst, caps: Caps | None) -> Worst:
    """What is left of a worst case under the caps of a block, where it has some."""
    return worst if caps is None else capped(worst, caps)[0]


def side_by_side(parts: list[Worst], at_once: int) -> Worst:
    """Blocks at the same time, no more than `at_once` of them."""
    longest = max((part.needed_seconds for part in parts), default=0.0)
    total = all_of(parts)
    if at_once >= len(parts):
        return replace(total, needed_seconds=longest)
    # However they are taken up: nobody idles while there is work (Graham's bound).
    return replace(total, needed_seconds=(total.needed_seconds - longest) / at_once + longest)


def all_of(parts: list[Worst]) -> Worst:
    """Blocks one after the other."""
    return reduce(Worst.then, parts, NOTHING)


def combined(one: Money, other: Money, how: Callable[[Decimal, Decimal], Decimal]) -> Money:
    """Two amounts of each currency as one."""
    nothing = Decimal(0)
    return {name: how(one.get(name, nothing), other.get(name, nothing)) for name in sorted({*one, *other})}

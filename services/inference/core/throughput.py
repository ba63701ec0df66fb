"""Owns how many tokens a second an engine has given of late, and at best, as the ends of its calls tell.

A call's tokens count when it ends, and fade with a time constant: each adds tokens/T · exp(-age/T). Averaged over time
that is the true rate; T is long against a call, so that calls which end together are no peak.
"""

import math
from dataclasses import dataclass
from typing import Final

LATE_SECONDS: Final = 15.0
"""What "of late" means."""
BEST_SECONDS: Final = 60.0
"""The best rate must have lasted about as long."""
FOLD_SECONDS: Final = 0.1
"""While the engine works, what ends within so long counts as one."""
BEST_AFTER_SECONDS: Final = 30.0
"""Of work; before that nobody knows."""


@dataclass(slots=True)
class _Fading:
    """A rate that fades with a time constant."""

    constant_seconds: float
    rate: float = 0.0

    def add(self, tokens: int, elapsed_seconds: float) -> None:
        self.rate = self.after(elapsed_seconds) + tokens / self.constant_seconds

    def after(self, elapsed_seconds: float) -> float:
        return self.rate * math.exp(-elapsed_seconds / self.constant_seconds)


class Throughput:
    """Tokens that calls brought, and those that calls in the engine are expected to bring. Seconds of any clock."""

    __slots__ = (
        "_at_seconds",
        "_best",
        "_busy_seconds",
        "_calls",
        "_ended_tokens",
        "_late",
        "_slow",
        "tokens_in_flight",
    )

    def __init__(self) -> None:
        self._at_seconds = 0.0
        self._calls = self._ended_tokens = 0
        self._busy_seconds = 0.0
        self._late: Final = _Fading(LATE_SECONDS)
        self._slow: Final = _Fading(BEST_SECONDS)
        self._best = 0.0
        self.tokens_in_flight = 0

    def begin(self, tokens: int, at_seconds: float) -> None:
        """A call reaches the engine that will take so many tokens, prompt and answer."""
        if self._calls == 0 or at_seconds - self._at_seconds >= FOLD_SECONDS:
            self._fold(at_seconds)
        self._calls += 1
        self.tokens_in_flight += tokens

    def end(self, expected_tokens: int, tokens: int, at_seconds: float) -> None:
        """It is over; `tokens` were worked on."""
        self._ended_tokens += tokens
        if self._calls == 1 or at_seconds - self._at_seconds >= FOLD_SECONDS:
            self._fold(at_seconds)
        self._calls -= 1
        self.tokens_in_flight -= expected_tokens

    def late(self, at_seconds: float) -> float:
        """Tokens per second of late."""
        if self._ended_tokens:
            self._fold(at_seconds)
        return self._late.after(max(0.0, at_seconds - self._at_seconds))

    @property
    def best(self) -> float | None:
        """The most tokens per second so far; None while too little was seen."""
        return self._best or None

    def _fold(self, at_seconds: float) -> None:
        """The time since the last fold, busy or idle as a whole, and the tokens that came in it."""
        tokens, self._ended_tokens = self._ended_tokens, 0
        elapsed = max(0.0, at_seconds - self._at_seconds)
        self._at_seconds = max(self._at_seconds, at_seconds)
        if self._calls:
            self._busy_seconds += elapsed
        self._late.add(tokens, elapsed)
        # Idle time says nothing about what the engine can do.
        self._slow.add(tokens, elapsed if self._calls else 0.0)
        if self._busy_seconds >= BEST_AFTER_SECONDS and tokens:
            # What the fading has not seen yet is made up for, as if the work before had been like this.
            self._best = max(self._best, self._slow.rate / -math.expm1(-self._busy_seconds / BEST_SECONDS))

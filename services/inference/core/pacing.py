"""Owns when the next call may go to an endpoint that limits requests and tokens per minute: a token bucket each.

A bucket fills steadily and holds BURST_SECONDS of its rate, so that no window of a minute sees more than the limit and
that much. What the endpoint says of itself goes before what we think: what it has left, and when it fills up again.
"""

from dataclasses import dataclass
from typing import Final

BURST_SECONDS: Final = 5.0
"""What may go at once after a pause: some endpoints count by shorter windows than the minute they name."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an endpoint says is left, and the seconds until it is full again. None where it does not say."""

    requests: int | None = None
    requests_reset_seconds: float | None = None
    tokens: int | None = None
    tokens_reset_seconds: float | None = None


class Pace:
    """The pace of one endpoint. Times in seconds by any steady clock; they never go back."""

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None, at: float) -> None:
        self._requests: Final = _Bucket(requests_per_minute, at)
        self._tokens: Final = _Bucket(tokens_per_minute, at)
        self._held_until = at
        self._left_tokens: float | None = None
        self._left_until = at

    def wait_seconds(self, tokens: int, at: float) -> float:
        """How long until a call of so many tokens may go; 0 for now."""
        waits = [self._held_until - at, self._requests.wait_seconds(1, at), self._tokens.wait_seconds(tokens, at)]
        if self._left_tokens is not None and self._left_tokens < tokens:
            waits.append(self._left_until - at)
        return max(0.0, *waits)

    def take(self, tokens: int, at: float) -> None:
        """A call of so many tokens goes."""
        self._requests.take(1, at)
        self._tokens.take(tokens, at)
        if self._left_tokens is not None:
            self._left_tokens = None if at >= self._left_until else max(0, self._left_tokens - tokens)

    def settle(self, reserved_tokens: int, used_tokens: int, at: float) -> None:
        """A call is over: what it was reserved and did not use is free again."""
        self._tokens.take(used_tokens - reserved_tokens, at)

    def hold(self, seconds: float, at: float) -> None:
        """The endpoint asked for a pause: nothing goes before it is over."""
        self._held_until = max(self._held_until, at + seconds)

    def learn(self, left: Left, at: float) -> None:
        """What the endpoint said with an answer."""
        if left.requests is not None and left.requests <= 0 and left.requests_reset_seconds is not None:
            self.hold(left.requests_reset_seconds, at)
        if left.tokens is not None and left.tokens_reset_seconds is not None:
            self._left_tokens, self._left_until = left.tokens, at + left.tokens_reset_seconds


class _Bucket:
    """Holds what may be spent at once; goes below nothing for what is larger than it, and then fills up first."""

    __slots__ = ("_at", "_held_max", "_level", "_per_second")

    def __init__(self, per_minute: int | None, at: float) -> None:
        self._per_second: Final = None if per_minute is None else per_minute / 60
        self._held_max: Final = 0.0 if per_minute is None else max(1.0, per_minute / 60 * BURST_SECONDS)
        self._level = self._held_max
        self._at = at

    def wait_seconds(self, amount: float, at: float) -> float:
        if self._per_second is None:
            return 0.0
        self._fill(at)
        return (min(amount, self._held_max) - self._level) / self._per_second

    def take(self, amount: float, at: float) -> None:
        if self._per_second is not None:
            self._fill(at)
            self._level = min(self._held_max, self._level - amount)

    def _fill(self, at: float) -> None:
        assert self._per_second is not None
        self._level = min(self._held_max, self._level + (at - self._at) * self._per_second)
        self._at = at

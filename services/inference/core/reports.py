"""Owns what an engine says about its room, and when it is worth saying again.

A report is due when the engine's health changed, when a figure moved by more than MOVED_SHARE of its scale, every few
seconds while it works, and now and then while it idles: often enough that the last report never expires.
"""

from dataclasses import dataclass
from typing import Final, Literal

MOVED_SHARE: Final = 0.05
"""A figure has moved when it changed by more than this share of what it can be."""

HealthState = Literal["starting", "up", "draining", "away", "stopped"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What an engine does, and how much room it has. None where nobody knows."""

    requests_in_flight: int = 0
    requests_best: int | None = None
    tokens_in_flight: int = 0
    kv_tokens_max: int | None = None
    kv_tokens_free: int | None = None
    requests_waiting: int = 0
    tokens_waiting: int = 0
    tokens_per_second: float = 0.0
    tokens_per_second_best: float | None = None

    @property
    def working(self) -> bool:
        """Whether anything is in the engine or before it."""
        return self.requests_in_flight > 0 or self.requests_waiting > 0


@dataclass(frozen=True, slots=True)
class Said:
    """The last report."""

    state: HealthState
    figures: Figures
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often an engine reports: while it works, while it idles, and for how many idle periods a report holds."""

    working_seconds: float = 2.0
    idle_seconds: float = 10.0
    periods_held: int = 3

    @property
    def held_seconds(self) -> float:
        """How long a report is valid."""
        return self.periods_held * max(self.working_seconds, self.idle_seconds)

    def due(self, last: Said | None, state: HealthState, now: Figures, at_seconds: float) -> bool:
        """Whether to report again."""
        if last is None or last.state != state:
            return True
        silent_seconds = at_seconds - last.at_seconds
        if silent_seconds >= (self.working_seconds if now.working else self.idle_seconds):
            return True
        return last.figures != now and _moved(last.figures, now)


def _moved(was: Figures, now: Figures) -> bool:
    if was.working != now.working:
        return True  # the rate of an idle engine only fades: that alone is no news
    kv_max = now.kv_tokens_max or max(was.tokens_in_flight, now.tokens_in_flight)
    best = now.requests_best or max(was.requests_in_flight, now.requests_in_flight)
    pairs = (
        (was.requests_in_flight, now.requests_in_flight, best),
        (was.requests_waiting, now.requests_waiting, best),
        (was.tokens_in_flight, now.tokens_in_flight, kv_max),
        (was.tokens_waiting, now.tokens_waiting, kv_max),
        (was.kv_tokens_free or 0, now.kv_tokens_free or 0, kv_max),
        (was.requests_best or 0, now.requests_best or 0, best),
        (was.kv_tokens_max or 0, now.kv_tokens_max or 0, kv_max),
        (was.tokens_per_second_best or 0.0, now.tokens_per_second_best or 0.0, now.tokens_per_second_best or 0.0),
    )
    return any(abs(after - before) > MOVED_SHARE * scale for before, after, scale in pairs)

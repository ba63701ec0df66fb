"""Owns the control law of the batch: how many requests belong into an engine, from what it was seen to give for them.

More in flight gives more tokens per second until the engine's arithmetic, its memory's bandwidth or its own batch limit
is used up; past that it gives only longer waits. The law looks for that knee and holds there. It knows no GPU.

What is measured. By Little's law (1961, doi 10.1287/opre.9.3.383) tokens per second are the mean number in flight times
the tokens of a request per second of its stay: `T = N · Σ tokens / Σ seconds` over the requests that end in a stretch.
The quotient hardly depends on which requests happened to be long, because a longer one stays longer as well. `N` is
what these requests had beside them during their stay, not what there is in the stretch: one that stays for long has
seen the limit before, and would make the new one look better than it is. Prompt tokens count `PROMPT_WEIGHT` each: a
prompt is read in parallel, an answer is written one token at a time.

What is wanted. With the elasticity of tokens to requests in flight, `e = d ln T / d ln N`, hold N where `e` has fallen
to `TARGET`: one percent more in flight buys TARGET percent more tokens. That is the maximum of Kleinrock's generalised
power, `T^(1/TARGET) / N` (Kleinrock 1979, ICC '79, 43.1.1-43.1.10). An engine whose step takes `a + b · N` gives
`T = N / (a + b · N)`, where `e = 1 - T / T_best`: there the target is the share of the best rate that is given up. What
is measured is lower than `e` by some hundredths, because requests that end have seen both limits; so on rooflines it
holds at 0.90 to 1.00 of the best (bench.knee), and close to the least number in flight that gives so much.

How it is found. First by doubling, as long as doubling still pays a fifth of what it could. Then by finite differences
(Kiefer and Wolfowitz 1952, doi 10.1214/aoms/1177729392): a stretch at N times `PROBE` (or N over `PROBE`, where no more
are allowed) between two at N, so that a drift of the load cancels out, gives an estimate of `e`; then `ln N` moves by
a gain times `e - TARGET`, within bounds, or N doubles where that would have gone on at first: a doubling that was given
up because the machine was slow just then is made up for. The gain does not shrink, so that a change of load is
followed; a dead band keeps noise from moving it, and while nothing moves it is probed more and more rarely, down to one
stretch in five; where only less can be tried, which costs tokens, to one in seventeen, until the rate at the limit
becomes another. A stretch counts only where the limit was what held requests back: while there is nothing to do, or the
cache is full, nothing is learned about the limit. After a change of the limit as many requests as fit into the engine
end uncounted.

An error costs more to one side than to the other: too few in flight are tokens that are not made, too many are waits.
So steps down are shorter than steps up, whatever was measured: where the speed of an engine changes by factors within
seconds, since others use its machine, the law lets in too many rather than too few.
"""

from math import ceil, exp, log
from typing import Final

PROMPT_WEIGHT: Final = 0.1
TARGET: Final = 0.04
PROBE: Final = 1.5
DEAD_BAND: Final = 0.02
GAIN: Final = 3.0
STEP_UP_MAX, STEP_DOWN_MAX = 0.35, 0.2
HOLD_MAX, HOLD_MAX_AT_TOP = 3, 15
"""Stretches at the limit between two trials, at most. Where no more are allowed, a trial is tokens not made."""
CHANGED: Final = 0.15
"""Where the rate at the limit is another by this (in its logarithm), the load is another: a trial is due."""
DOUBLING_PAYS: Final = 0.2
"""Doubling goes on while the elasticity over it is at least this."""
BUSY: Final = 0.9
"""The limit held requests back where the mean in flight was at least this share of it."""
ENDED_MIN_DOUBLING, ENDED_MIN = 48, 96
"""Requests that a stretch is measured over, at least."""
START: Final = 16


def weighed(prompt: int, output: int) -> float:
    """A request's tokens as the law counts them."""
    return output + PROMPT_WEIGHT * prompt


class BatchControl:
    """The limit of one engine. Told of every request that begins and ends; times in seconds, from any origin."""

    def __init__(self, limit_max: int, start: int = START) -> None:
        self.limit_max: Final = limit_max
        self.limit = min(start, limit_max)
        """Requests that may be in flight now."""
        self.in_flight = 0
        self.rate: float | None = None
        """Weighed tokens per second of late, while there was enough to do."""
        self.rate_best: float | None = None
        """The same at the limit that was settled on."""
        self.seconds_per_token: float | None = None
        """Of its stay in the engine, of late."""
        self.settled = False
        """Whether the doubling is over: before, the best batch is not known."""
        self._base = float(self.limit)
        self._probing = False
        self._before: tuple[float, float] | None = None
        self._probed: tuple[float, float] | None = None
        self._hold = self._held = 0
        self._at = self._area = 0.0
        self._skip = self.limit  # the first to end were in an engine that was still filling up
        self._restart(0.0)

    def began(self, now: float) -> float:
        """A request is in the engine. What is returned tells `ended` what it has had beside it."""
        self._integrate(now)
        self.in_flight += 1
        return self._area

    def ended(self, now: float, tokens: float, seconds: float, mark: float) -> bool:
        """It left after `seconds`, with `tokens` as weighed; 0 where it failed. Whether the limit has changed."""
        self._integrate(now)
        self.in_flight -= 1
        if tokens <= 0.0:
            return False
        per_token = seconds / tokens
        known = self.seconds_per_token
        self.seconds_per_token = per_token if known is None else known + 0.02 * (per_token - known)
        if self._skip > 0:
            self._skip -= 1
            if self._skip == 0:
                self._restart(now)
            return False
        self._ended += 1
        self._tokens += tokens
        self._seconds += seconds
        self._beside += self._area - mark
        enough = max(ENDED_MIN, self.limit) if self.settled else max(ENDED_MIN_DOUBLING, self.limit // 2)
        if self._ended < enough:
            return False
        return self._measured(now)

    def _integrate(self, now: float) -> None:
        self._area += self.in_flight * (now - self._at)
        self._at = now

    def _restart(self, now: float) -> None:
        """A stretch begins."""
        self._ended = 0
        self._tokens = self._seconds = self._beside = 0.0
        self._area_since, self._since = self._area, now

    def _measured(self, now: float) -> bool:
        """A stretch is over."""
        busy = self._area - self._area_since >= BUSY * self.limit * (now - self._since)
        mean = self._beside / self._seconds
        rate = mean * self._tokens / self._seconds
        before = self.limit
        self.rate = rate
        self._restart(now)
        if not busy:
            self._before = self._probed = None
            self._probing = False
            if self.settled:
                self._set_limit()
            return False
        if not self.settled:
            self._double(mean, rate)
        else:
            self._compare(mean, rate)
        changed = self.limit != before
        self._skip = max(before, self.limit) if changed else 0
        return changed

    def _double(self, mean: float, rate: float) -> None:
        before, self._before = self._before, (mean, rate)
        pays = before is None or _elasticity(before, self._before) >= DOUBLING_PAYS
        if pays and self.limit < self.limit_max:
            self.limit = min(2 * self.limit, self.limit_max)
            return
        self.settled = True
        self.rate_best = rate
        self._base = self.limit if pays or before is None else (before[0] * mean) ** 0.5
        self.limit = max(1, round(self._base))

    def _compare(self, mean: float, rate: float) -> None:
        here = (mean, rate)
        if self._probing:
            self._probed, self._probing = here, False
        elif self._probed is None:
            if self.rate_best is not None and abs(log(rate / self.rate_best)) > CHANGED:
                self._hold = self._held = 0
            self._before, self.rate_best = here, rate
            self._probing = self._hold == 0
            self._hold = max(0, self._hold - 1)
        else:
            assert self._before is not None
            middle = ((self._before[0] * mean) ** 0.5, (self._before[1] * rate) ** 0.5)
            moved = self._move(_elasticity(middle, self._probed))
            hold_max = HOLD_MAX_AT_TOP if round(self._base) >= self.limit_max else HOLD_MAX
            self._held = 0 if moved else min(hold_max, 2 * self._held + 1)
            self._hold, self._probed, self._before = self._held, None, here
        self._set_limit()

    def _set_limit(self) -> None:
        base = max(1, round(self._base))
        if not self._probing:
            self.limit = base
        elif base < self.limit_max:
            self.limit = min(self.limit_max, max(base + 1, ceil(base * PROBE)))
        else:
            self.limit = max(1, int(base / PROBE))

    def _move(self, elasticity: float) -> bool:
        off = elasticity - TARGET
        if abs(off) <= DEAD_BAND:
            return False
        step = log(2) if elasticity >= DOUBLING_PAYS else max(-STEP_DOWN_MAX, min(STEP_UP_MAX, GAIN * off))
        before = round(self._base)
        self._base = max(1.0, min(float(self.limit_max), self._base * exp(step)))
        return round(self._base) != before


def _elasticity(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Of the rate to the requests in flight, between two stretches; 1 where the two were at the same number."""
    spread = log(high[0] / low[0])
    return log(high[1] / low[1]) / spread if abs(spread) > 0.02 else 1.0

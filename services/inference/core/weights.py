"""Owns what a token weighs when engine time is shared out: prefill and decode differ, as the engine itself shows.

A prompt is computed in a few large steps, an answer one token per step, so that a token of an answer costs several of a
prompt. How many follows from the engine: over windows of time, by least squares,

    busy seconds  ≈  a · prompt tokens computed  +  b · tokens generated

a and b at least 0, older windows forgotten (each counts FORGET of the next). Traffic whose mix never varies cannot tell
a from b, so the sum also holds both to an assumption (a ridge): it decides as long as nothing else does, and fades as
PRIOR_WINDOWS against the windows seen. The assumption is PRIOR, or what a roofline says of simulated hardware. Only
the ratio of a to b is used. A prompt token out of the prefix cache is not computed: it weighs CACHED_SHARE of one
that is, for looking it up and being read.
"""

from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import TokenUsage
from services.inference.core.roofline import PREFILL_TOKENS_MAX, Roofline

UNIT: Final = 10_000
"""The weight of a generated token; the others are whole parts of it."""
CACHED_SHARE: Final = 0.02
FORGET: Final = 0.995
PRIOR_WINDOWS: Final = 0.25
PREFILL_MIN: Final = UNIT // 1000
PREFILL_MAX: Final = UNIT * 10


@dataclass(frozen=True, slots=True)
class Weights:
    """Whole numbers, of which only the ratios matter."""

    prefill: int
    cached: int
    decode: int = UNIT

    @classmethod
    def of(cls, prefill_seconds: float, decode_seconds: float) -> "Weights":
        """From the seconds per prompt token and per generated token, within a thousandth and ten times."""
        ratio = prefill_seconds / decode_seconds if decode_seconds > 0 else PREFILL_MAX / UNIT
        prefill = min(PREFILL_MAX, max(PREFILL_MIN, round(UNIT * ratio)))
        return cls(prefill, max(1, round(prefill * CACHED_SHARE)))

    def work(self, usage: TokenUsage) -> int:
        """What a call's tokens weigh, all together."""
        generated = usage.output + usage.reasoning
        return usage.input * self.prefill + usage.cached_input * self.cached + generated * self.decode


PRIOR: Final = Weights.of(1.0, 4.0)
"""An assumption: a generated token costs four of a prompt, as managed endpoints price them."""


def of_roofline(roofline: Roofline, batch: int, context_tokens: int = 1000) -> Weights:
    """What the roofline says: full prefill steps, and decode steps of a batch whose contexts are this long."""
    prefill = roofline.step_seconds(PREFILL_TOKENS_MAX, 0) / PREFILL_TOKENS_MAX
    return Weights.of(prefill, roofline.step_seconds(batch, batch * context_tokens) / batch)


class Calibration:
    """Weights that follow what the engine shows."""

    __slots__ = ("_dd", "_pd", "_pp", "_prior", "_sum_d", "_sum_p", "_sum_t", "_td", "_tp", "_windows", "weights")

    def __init__(self, prior: Weights = PRIOR) -> None:
        self._prior: Final = prior
        self.weights = prior
        self._pp = self._pd = self._dd = self._tp = self._td = 0.0
        self._sum_p = self._sum_d = self._sum_t = self._windows = 0.0

    def observe(self, busy_seconds: float, prefill_tokens: int, decode_tokens: int) -> None:
        """A window of time with what was computed in it."""
        if busy_seconds <= 0 or prefill_tokens + decode_tokens == 0:
            return
        p, d, t = float(prefill_tokens), float(decode_tokens), busy_seconds
        self._pp = self._pp * FORGET + p * p
        self._pd = self._pd * FORGET + p * d
        self._dd = self._dd * FORGET + d * d
        self._tp = self._tp * FORGET + t * p
        self._td = self._td * FORGET + t * d
        self._sum_p = self._sum_p * FORGET + p
        self._sum_d = self._sum_d * FORGET + d
        self._sum_t = self._sum_t * FORGET + t
        self._windows = self._windows * FORGET + 1
        self.weights = self._solved()

    def _solved(self) -> Weights:
        if self._pp == 0 or self._dd == 0:
            return self.weights  # prompts only, or answers only: they tell nothing of a ratio
        prior = self._prior
        scale = self._sum_t / (prior.prefill * self._sum_p + prior.decode * self._sum_d)
        assumed_a, assumed_b = prior.prefill * scale, prior.decode * scale
        ridge = PRIOR_WINDOWS / self._windows
        pp, dd = self._pp * (1 + ridge), self._dd * (1 + ridge)
        tp, td = self._tp + self._pp * ridge * assumed_a, self._td + self._dd * ridge * assumed_b
        determinant = pp * dd - self._pd * self._pd
        a = (tp * dd - td * self._pd) / determinant
        b = (td * pp - tp * self._pd) / determinant
        return Weights.of(max(a, 0.0), max(b, 0.0))

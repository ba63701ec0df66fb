"""Owns how long an answer is expected to be: learned per step of a workflow, bounded by what the request allows.

A quantile that forgets, by stochastic approximation (Robbins and Monro 1951, doi 10.1214/aoms/1177729586) on a
logarithmic scale: an answer that is longer moves the estimate up by `q` steps, one that is shorter down by `1 - q`, so
that it rests where a share `q` of the answers is no longer. The steps shrink to a floor, so that it follows a change.
"""

from collections import OrderedDict
from math import exp
from typing import Final

STEPS_MAX: Final = 4096
"""Steps remembered; the one that was asked about longest ago is forgotten first."""
QUANTILE: Final = 0.8
"""High enough that few answers outgrow their reservation, low enough that reservations are used."""
RATE_MIN: Final = 0.05
SETTLED_ANSWERS: Final = 100
"""By then the steps have shrunk to the floor."""
CAUTION_ANSWERS: Final = 3
"""After n answers the estimate is taken (1 + 3/n) times: few answers say little about the long ones."""

Step = tuple[str, str, str]
"""Workflow, version, step."""


class ExpectedTokens:
    """Output tokens per step of a workflow."""

    def __init__(self, *, steps_max: int = STEPS_MAX, quantile: float = QUANTILE) -> None:
        self._steps_max: Final = steps_max
        self._quantile: Final = quantile
        self._up: Final = exp(RATE_MIN * quantile)
        self._down: Final = exp(RATE_MIN * (quantile - 1))
        self._learned: Final[OrderedDict[Step, tuple[int, float]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._learned)

    def tokens(self, step: Step, max_tokens: int) -> int:
        """Expected output tokens, 1 … `max_tokens`; all of them where nothing is known."""
        learned = self._learned.get(step)
        if learned is None:
            return max_tokens
        self._learned.move_to_end(step)
        count, estimate = learned
        return max(1, min(max_tokens, round(estimate * (1 + CAUTION_ANSWERS / count))))

    def learn(self, step: Step, tokens: int) -> None:
        """An answer had this many tokens. Answers that were cut by a failure say nothing: do not tell of them."""
        count, estimate = self._learned.get(step, (0, 0.0))
        if count == 0:
            estimate = float(max(1, tokens))
        else:
            longer = tokens > estimate
            if count >= SETTLED_ANSWERS:
                estimate *= self._up if longer else self._down
            else:
                rate = max(RATE_MIN, (count + 1) ** -0.7)
                estimate *= exp(rate * (self._quantile if longer else self._quantile - 1))
            estimate = max(1.0, estimate)
        self._learned[step] = (min(count + 1, 1_000_000), estimate)
        self._learned.move_to_end(step)
        while len(self._learned) > self._steps_max:
            self._learned.popitem(last=False)

"""Owns how many calls runs of a workflow make as a rule, and which run makes far more: a loop, or a runaway agent."""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from typing import Final

RUNS_MAX: Final = 200
"""Of each workflow, the last that ended."""
RUNS_MIN: Final = 20
"""With fewer, nothing is known yet."""
WORKFLOWS_MAX: Final = 1_000
QUANTILE: Final = 0.95
FACTOR: Final = 3


class CallHistory:
    """Calls per run by workflow, of the runs that ended last. Kept in memory, by each instance for its own homes."""

    def __init__(self) -> None:
        self._workflows: OrderedDict[str, tuple[deque[int], list[int]]] = OrderedDict()
        """The counts in the order in which runs ended, and sorted."""
        self._limits: dict[str, int] = {}
        """Of the workflows of which enough is known: asked for with every call, changed with every run."""

    def ended(self, workflow: str, calls: int) -> None:
        """A run ended after this many calls, retries among them."""
        known = self._workflows.get(workflow)
        if known is None:
            known = self._workflows[workflow] = deque(), []
            if len(self._workflows) > WORKFLOWS_MAX:
                self._limits.pop(self._workflows.popitem(last=False)[0], None)
        self._workflows.move_to_end(workflow)
        latest, ordered = known
        latest.append(calls)
        insort(ordered, calls)
        if len(latest) > RUNS_MAX:
            del ordered[bisect_left(ordered, latest.popleft())]
        if len(ordered) >= RUNS_MIN:
            self._limits[workflow] = FACTOR * max(1, ordered[int(QUANTILE * (len(ordered) - 1))])

    def limit(self, workflow: str) -> int | None:
        """More calls than this are amplification: three times what 95 % of the last runs made. None: not known yet."""
        return self._limits.get(workflow)

    def passes(self, workflow: str, before: int, after: int) -> bool:
        """Whether a run has just made more calls than its workflow's runs do: true once for each run."""
        limit = self._limits.get(workflow)
        return limit is not None and before <= limit < after

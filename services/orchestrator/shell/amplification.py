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

    def ended(self, workflow: str, calls: int) -> None:
        """A run ended after this many calls, retries among them."""
        known = self._workflows.get(workflow)
        if known is None:
            known = self._workflows[workflow] = deque(), []
            if len(self._workflows) > WORKFLOWS_MAX:
                self._workflows.popitem(last=False)
        self._workflows.move_to_end(workflow)
        latest, ordered = known
        latest.append(calls)
        insort(ordered, calls)
        if len(latest) > RUNS_MAX:
            del ordered[bisect_left(ordered, latest.popleft())]

    def limit(self, workflow: str) -> int | None:
        """More calls than this are amplification: three times what 95 % of the last runs made. None: not known yet."""
        known = self._workflows.get(workflow)
        if known is None or len(known[1]) < RUNS_MIN:
            return None
        return FACTOR * max(1, known[1][int(QUANTILE * (len(known[1]) - 1))])

    def passes(self, workflow: str, before: int, after: int) -> bool:
        """Whether a run has just made more calls than its workflow's runs do: true once for each run."""
        limit = self.limit(workflow)
        return limit is not None and before <= limit < after

"""Owns the runs held in memory: the ones used last, those of homes that this instance owns only."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from uuid import UUID

from services.orchestrator.core.state import Run


class RunCache:
    """At most `runs_max` runs by key. A run whose change was not written must be evicted: it holds that change."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self._runs: OrderedDict[UUID, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, key: UUID) -> Run | None:
        """The run, now the one used last."""
        run = self._runs.get(key)
        if run is not None:
            self._runs.move_to_end(key)
        return run

    def put(self, run: Run) -> None:
        """Keep a run."""
        self._runs[run.key] = run
        self._runs.move_to_end(run.key)

    def trim(self) -> None:
        """Drop the runs used longest ago. Called between batches, so that a batch never loses what it works on."""
        while len(self._runs) > self._runs_max:
            self._runs.popitem(last=False)

    def evict(self, keys: Iterable[UUID]) -> None:
        """Drop runs."""
        for key in keys:
            self._runs.pop(key, None)

    def forget_homes(self, homes: Collection[int]) -> None:
        """Drop all runs of homes that somebody else owns now."""
        self.evict([key for key, run in self._runs.items() if run.home in homes])

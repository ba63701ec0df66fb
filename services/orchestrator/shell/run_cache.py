"""Owns the runs held in memory: the ones used last, those of homes that this instance owns only."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from uuid import UUID

from services.orchestrator.core.state import Run


class RunCache:
    """At most `runs_max` runs by key. A run whose change was not written must be evicted: it holds that change."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        # By the integer of the key: hashing a UUID runs Python code, and this is asked several times per record.
        self._runs: OrderedDict[int, Run] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, key: UUID) -> Run | None:
        """The run, if it is held."""
        return self._runs.get(key.int)

    def use(self, keys: Iterable[UUID]) -> set[UUID]:
        """These runs are the ones used last now; the keys of those that are not held."""
        missing, held = set[UUID](), self._runs
        for key in keys:
            number = key.int
            if number in held:
                held.move_to_end(number)
            else:
                missing.add(key)
        return missing

    def put(self, run: Run) -> None:
        """Keep a run, as the one used last."""
        self._runs[run.key.int] = run
        self._runs.move_to_end(run.key.int)

    def trim(self) -> None:
        """Drop the runs used longest ago. Called between batches, so that a batch never loses what it works on."""
        while len(self._runs) > self._runs_max:
            self._runs.popitem(last=False)

    def evict(self, keys: Iterable[UUID]) -> None:
        """Drop runs."""
        for key in keys:
            self._runs.pop(key.int, None)

    def forget_homes(self, homes: Collection[int]) -> None:
        """Drop all runs of homes that somebody else owns now."""
        self.evict([run.key for run in self._runs.values() if run.home in homes])

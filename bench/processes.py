"""Owns the account of CPU and memory by part, children included."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by part since an earlier look."""

    seconds: dict[str, float]

    def shares(self, wall_seconds: float) -> dict[str, float]:
        """Cores used by part."""
        return {part: round(spent / wall_seconds, 3) for part, spent in self.seconds.items()}


class Processes:
    """The processes of a stack by part, and this one as `driver`.

    `children` names the parts whose children are a part of their own, and what that is called; all others count with
    their children, the driver without.
    """

    def __init__(self, pids: Mapping[str, int], children: Mapping[str, str] | None = None) -> None:
        self._pids = {**pids, DRIVER: os.getpid()}
        self._children = {DRIVER: None, **{part: part for part in pids}, **(children or {})}
        self._before = self._cpu_seconds()

    def mark(self) -> None:
        """Count from now on."""
        self._before = self._cpu_seconds()

    def spent(self) -> Spent:
        """CPU since the last mark."""
        now = self._cpu_seconds()
        return Spent({part: now[part] - self._before.get(part, 0.0) for part in now})

    def memory_mib(self) -> dict[str, float]:
        """Resident memory by part, children included: shared pages of Postgres count once per process."""
        mib: defaultdict[str, float] = defaultdict(float)
        for part, process in self._all():
            mib[part] += process.memory_info().rss / 2**20
        return dict(mib)

    def _cpu_seconds(self) -> dict[str, float]:
        seconds: defaultdict[str, float] = defaultdict(float)
        for part, process in self._all():
            times = process.cpu_times()
            seconds[part] += times.user + times.system
        return dict(seconds)

    def _all(self) -> Iterator[tuple[str, psutil.Process]]:
        for part, pid in self._pids.items():
            process = psutil.Process(pid)
            yield part, process
            children = self._children[part]
            if children is not None:
                for child in process.children(recursive=True):
                    yield children, child

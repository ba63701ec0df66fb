"""Owns the account of CPU and memory by part, children included."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by part since an earlier look."""

    seconds: dict[str, float]

    def shares(self, wall_seconds: float) -> dict[str, float]:
        """Cores used by part."""
        return {part: round(spent / wall_seconds, 3) for part, spent in self.seconds.items()}


class Processes:
    """The processes of a stack by part, and this one as `driver`."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = {**pids, "driver": os.getpid()}
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
        return {part: sum(p.memory_info().rss for p in self._family(part)) / 2**20 for part in self._pids}

    def _cpu_seconds(self) -> dict[str, float]:
        seconds = {}
        for part in self._pids:
            times = [process.cpu_times() for process in self._family(part)]
            seconds[part] = sum(t.user + t.system for t in times)
        return seconds

    def _family(self, part: str) -> list[psutil.Process]:
        process = psutil.Process(self._pids[part])
        return [process] if part == "driver" else [process, *process.children(recursive=True)]

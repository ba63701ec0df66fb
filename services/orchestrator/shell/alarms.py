"""Owns the alarms of the homes that this instance owns: what is due next, without asking the database."""

import heapq
from collections.abc import Collection, Iterable
from uuid import UUID

from services.orchestrator.shell.store import Alarm

_STALE_ENTRIES_MIN = 4096
"""Below this many entries a heap with stale ones is not worth rebuilding."""


class Alarms:
    """The earliest due time of each run, by its key's integer. A moved or cleared alarm leaves a stale heap entry."""

    def __init__(self) -> None:
        self._alarms: dict[int, Alarm] = {}
        self._heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._alarms)

    def get(self, run_key: UUID) -> int | None:
        """When the run is woken, in ms since 1970; None when it is not."""
        alarm = self._alarms.get(run_key.int)
        return None if alarm is None else alarm.due_at_ms

    def set(self, alarms: Iterable[Alarm]) -> None:
        """Add or move alarms."""
        for alarm in alarms:
            key = alarm.run_key.int
            if self._alarms.get(key) == alarm:
                continue
            self._alarms[key] = alarm
            heapq.heappush(self._heap, (alarm.due_at_ms, key))
        self._compact()

    def clear(self, run_keys: Iterable[UUID]) -> None:
        """Take alarms off."""
        for run_key in run_keys:
            self._alarms.pop(run_key.int, None)
        self._compact()

    def forget_homes(self, homes: Collection[int]) -> None:
        """Take off all alarms of homes that somebody else owns now."""
        self._alarms = {key: alarm for key, alarm in self._alarms.items() if alarm.home not in homes}
        self._rebuild()

    def next_due_ms(self) -> int | None:
        """When the next alarm is due, None without any."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def due(self, at_ms: int, alarms_max: int) -> list[Alarm]:
        """The alarms due by `at_ms`, earliest first, `alarms_max` at most. They stay set until moved or cleared."""
        due: list[Alarm] = []
        while len(due) < alarms_max:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > at_ms:
                break
            alarm = self._alarms[heapq.heappop(self._heap)[1]]
            if not due or due[-1] != alarm:  # moved away and back: two entries, side by side
                due.append(alarm)
        for alarm in due:
            heapq.heappush(self._heap, (alarm.due_at_ms, alarm.run_key.int))
        return due

    def _is_stale(self, entry: tuple[int, int]) -> bool:
        alarm = self._alarms.get(entry[1])
        return alarm is None or alarm.due_at_ms != entry[0]

    def _drop_stale(self) -> None:
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)

    def _compact(self) -> None:
        if len(self._heap) > _STALE_ENTRIES_MIN and len(self._heap) > 2 * len(self._alarms):
            self._rebuild()

    def _rebuild(self) -> None:
        self._heap = [(alarm.due_at_ms, key) for key, alarm in self._alarms.items()]
        heapq.heapify(self._heap)

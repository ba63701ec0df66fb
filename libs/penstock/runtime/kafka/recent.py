"""Owns the memory of what was handled lately, so that a redelivery is not paid for twice."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing

RECORD_BYTES = 1000
"""What an id or a record takes besides its value, roughly."""


class Recent:
    """Finished events with their outputs, oldest forgotten first; and the events that are being handled now."""

    def __init__(self, ids_max: int, bytes_max: int) -> None:
        self._ids_max = ids_max
        self._bytes_max = bytes_max
        self._finished: OrderedDict[str, tuple[Sequence[Outgoing], int]] = OrderedDict()
        self._bytes = 0
        self._running: dict[str, asyncio.Task[None]] = {}

    def running(self, identity: str) -> "asyncio.Task[None] | None":
        """The task that handles this event now."""
        return self._running.get(identity)

    def begin(self, identity: str, task: "asyncio.Task[None]") -> None:
        """This task handles the event from now on."""
        self._running[identity] = task

    def end(self, identity: str) -> None:
        """Nobody handles the event any more."""
        self._running.pop(identity, None)

    def outputs(self, identity: str) -> Sequence[Outgoing] | None:
        """What a finished event answered, if it is remembered."""
        found = self._finished.get(identity)
        return None if found is None else found[0]

    def remember(self, identity: str, outputs: Sequence[Outgoing]) -> None:
        """An event is finished and its outputs are acknowledged."""
        if self._ids_max == 0:
            return
        size = RECORD_BYTES
        for output in outputs:
            size += RECORD_BYTES + len(output.value or b"")
        old = self._finished.pop(identity, None)
        self._bytes += size - (0 if old is None else old[1])
        self._finished[identity] = (outputs, size)
        while len(self._finished) > self._ids_max or self._bytes > self._bytes_max:
            _, (_, freed) = self._finished.popitem(last=False)
            self._bytes -= freed

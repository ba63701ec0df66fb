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
        self._running: dict[str, asyncio.Future[None] | None] = {}

    def knows(self, identity: str) -> bool:
        """Whether this event is being handled, or was handled and is remembered."""
        return identity in self._running or identity in self._finished

    def running(self, identity: str) -> "asyncio.Future[None] | None":
        """Done when this event is handled no more; None where it is not being handled. Many may wait for it."""
        if identity not in self._running:
            return None
        ended = self._running[identity]
        if ended is None:
            ended = self._running[identity] = asyncio.get_running_loop().create_future()
        return ended

    def begin(self, identity: str) -> None:
        """The event is being handled from now on."""
        self._running[identity] = None

    def end(self, identity: str) -> None:
        """Nobody handles the event any more."""
        ended = self._running.pop(identity, None)
        if ended is not None:
            ended.set_result(None)

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

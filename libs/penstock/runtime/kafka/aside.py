"""Owns setting aside what cannot be read on a topic that every instance reads by itself, and commits nothing of."""

from collections.abc import Awaitable, Callable, Sequence

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.records import Received, dead_letter

Send = Callable[[Sequence[Outgoing]], Awaitable[None]]


class Aside:
    """Sends a dead letter for what came since this instance began; what was there before, others have set aside.

    Every instance that hears a record sends its letter: one too many is better than none.
    """

    def __init__(self, send: Send, service: Service, subject: str, began_ms: int) -> None:
        """`subject` says in the letter's group what was read; `began_ms` is in the time of records."""
        self._send = send
        self._reader = f"penstock.{service.value}.{subject}"
        self._began_ms = began_ms

    async def put(self, record: Received, reason: str) -> None:
        """Raises NotAcknowledged where the letter cannot be written: the reader must not go on then."""
        if record.timestamp >= self._began_ms:
            await self._send([dead_letter(record, reason, None, self._reader)])

"""Owns what tests see of records that were set aside."""

from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.aside import Aside


class Letters:
    """The dead letters that were sent, in order."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    def aside(self, began_ms: int = 0) -> Aside:
        """What sends them."""
        return Aside(self._send, Service.ORCHESTRATOR, "test", began_ms)

    async def _send(self, records: Sequence[Outgoing]) -> None:
        self.sent += records

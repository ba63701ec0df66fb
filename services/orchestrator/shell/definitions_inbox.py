"""Owns what happens to a record of workflow.published or .aliased: it is taken, or set aside once with the reason."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from penstock.runtime.errors import Unavailable
from penstock.runtime.kafka.records import Received, dead_letter
from services.orchestrator.shell.aliases import RefusedAliasError
from services.orchestrator.shell.definitions import RefusedDefinitionError
from services.orchestrator.shell.outbox import Sender
from services.orchestrator.shell.store import Store
from services.orchestrator.shell.telemetry import OrchestratorEvent

READER = "penstock.orchestrator.definitions"
"""Named as the group in dead letters; the topics are read by every instance, without a group."""

_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


class DefinitionsInbox:
    """Every instance reads a topic from its beginning at every start, so refusals are remembered in the store."""

    def __init__(self, taken_by: Callable[[Received], Awaitable[None]], store: Store, sender: Sender) -> None:
        self._taken_by = taken_by
        self._store = store
        self._sender = sender

    async def take(self, record: Received) -> None:
        """Handle one record; waits while Postgres is away."""
        while True:
            try:
                await self._take(record)
            except Unavailable as error:
                log.warning(OrchestratorEvent.DEFINITIONS_WAITING, reason=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    async def _take(self, record: Received) -> None:
        try:
            await self._taken_by(record)
        except (RefusedDefinitionError, RefusedAliasError) as error:
            await self._set_aside(record, str(error))

    async def _set_aside(self, record: Received, reason: str) -> None:
        if record.offset < await self._store.broadcast_offset(record.topic):
            return
        log.warning(OrchestratorEvent.DEFINITION_REFUSED, offset=record.offset, reason=reason)
        await self._sender.send([dead_letter(record, reason, None, READER)])
        await self._store.advance_broadcast(record.topic, record.offset + 1)

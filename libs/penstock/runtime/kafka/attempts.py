"""Owns what happens to a record that is not done at once: more attempts, outputs sent again, or its dead letter."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from penstock.contracts.envelope import Outgoing
from penstock.runtime.errors import DeadLetterFailed, NotAcknowledged, Poison, Retryable
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received, dead_letter
from penstock.runtime.telemetry import LogEvent, logger

RETRY_SECONDS = 0.2
REPUBLISH_SECONDS = 1.0


class Outcome(StrEnum):
    """How a record was finished."""

    DONE = "done"
    REMEMBERED = "remembered"
    DEAD_LETTERED = "dead_lettered"

    __hash__ = str.__hash__  # an enumeration's own is Python code, and this is looked up per record


Handler = Callable[[Received], Awaitable[Sequence[Outgoing]]]


class Attempts:
    """Handles records for one group; keeps nothing between two of them."""

    def __init__(
        self,
        handler: Handler,
        publisher: Publisher,
        group_id: str,
        deliveries_max: int,
    ) -> None:
        self.handler = handler
        self._publisher = publisher
        self._group_id = group_id
        self._deliveries_max = deliveries_max
        self._log = logger("consumer").bind(group=group_id)

    async def again(self, record: Received, error: Exception) -> Sequence[Outgoing] | None:
        """After the handler's first attempt failed: what it answers to another; None where there is a dead letter.

        Raises DeadLetterFailed, and NotAcknowledged for a Poison's answers.
        """
        deliveries = 1
        while True:
            if isinstance(error, Retryable):
                deliveries -= 1
                self._log_failure(record, error, deliveries)
                await asyncio.sleep(error.after_ms / 1000)
            elif isinstance(error, Poison):
                await self._bury(record, error.reason, error, deliveries)
                await self.publish(error.answers)
                return None
            elif isinstance(error, NotAcknowledged):
                await self.refused(record, error, deliveries)
                return None
            else:
                self._log_failure(record, error, deliveries)
                if deliveries >= self._deliveries_max:
                    await self._bury(record, f"{type(error).__name__}: {error}", error, deliveries)
                    return None
                await asyncio.sleep(RETRY_SECONDS * deliveries)
            deliveries += 1
            try:
                return await self.handler(record)
            except Exception as another:  # noqa: BLE001  # user code may raise anything; it is logged and counted
                error = another

    async def refused(self, record: Received, error: Exception, deliveries: int = 1) -> None:
        """What the handler answered can never be published. Raises DeadLetterFailed."""
        reason = error.reason if isinstance(error, NotAcknowledged) else repr(error)
        await self._bury(record, f"its outputs were refused: {reason}", error, deliveries)

    async def publish(self, outputs: Sequence[Outgoing]) -> None:
        """Send until all is acknowledged. Raises NotAcknowledged only where sending again cannot help."""
        while outputs:
            try:
                await self._publisher.send(outputs)
            except NotAcknowledged as error:
                if error.permanent:
                    raise
                outputs = error.records
                await asyncio.sleep(REPUBLISH_SECONDS)
            else:
                return

    async def _bury(self, record: Received, reason: str, error: Exception, deliveries: int) -> None:
        letter = dead_letter(record, reason, error, self._group_id, deliveries=deliveries)
        try:
            await self._publisher.send([letter])
        except NotAcknowledged as refused:
            raise DeadLetterFailed(f"{letter.topic}: {refused.reason}; the record: {reason}") from refused
        self._log.error(
            LogEvent.RECORD_DEAD_LETTERED,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )

    def _log_failure(self, record: Received, error: Exception, deliveries: int) -> None:
        self._log.warning(
            LogEvent.HANDLER_FAILED,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            deliveries=deliveries,
            exc_info=None if isinstance(error, Retryable) else error,
            error=str(error),
        )

"""Owns what happens to one record: the handler, its retries, its outputs, or its dead letter."""

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


class Slot:
    """One of the bounded places for running handlers; given back when the handler has returned, or at the end."""

    __slots__ = ("_free", "_held", "_record")

    def __init__(self, free: Callable[[Received], None], record: Received) -> None:
        self._free = free
        self._record = record
        self._held = True

    def release(self) -> None:
        """Give it back, once."""
        if self._held:
            self._held = False
            self._free(self._record)


class Attempts:
    """Handles records for one group; keeps nothing between two of them."""

    def __init__(
        self,
        handler: Callable[[Received], Awaitable[Sequence[Outgoing]]],
        publisher: Publisher,
        group_id: str,
        deliveries_max: int,
    ) -> None:
        self._handler = handler
        self._publisher = publisher
        self._group_id = group_id
        self._deliveries_max = deliveries_max
        self._log = logger("consumer").bind(group=group_id)

    async def answer(self, record: Received, slot: Slot) -> Sequence[Outgoing] | None:
        """The outputs, acknowledged; None where the record became a dead letter. Raises DeadLetterFailed.

        Gives the slot back before the outputs are acknowledged: a round trip to the broker is nobody's work.
        """
        deliveries = 0
        while True:
            deliveries += 1
            try:
                outputs = await self._handler(record)
                slot.release()
                await self.publish(outputs)
            except Retryable as error:
                deliveries -= 1
                self._log_failure(record, error, deliveries)
                await asyncio.sleep(error.after_ms / 1000)
            except Poison as error:
                await self._bury(record, error.reason, error, deliveries)
                await self.publish(error.answers)
                return None
            except NotAcknowledged as error:  # what the handler answered can never be published
                await self._bury(record, f"its outputs were refused: {error.reason}", error, deliveries)
                return None
            except Exception as error:  # noqa: BLE001  # user code may raise anything; it is logged and counted
                self._log_failure(record, error, deliveries)
                if deliveries >= self._deliveries_max:
                    await self._bury(record, f"{type(error).__name__}: {error}", error, deliveries)
                    return None
                await asyncio.sleep(RETRY_SECONDS * deliveries)
            else:
                return outputs

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

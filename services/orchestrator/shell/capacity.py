"""Owns the reading of what engines report of their room: every instance reads it whole, from the beginning."""

from collections.abc import Callable

import structlog
from pydantic import ValidationError

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.contracts.messages import CapacityReported
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.records import Received
from services.orchestrator.shell.inbox import explain
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()


class CapacityInbox:
    """Takes reports as they come. One that cannot be read is set aside."""

    def __init__(self, heard: Callable[[CapacityReported], None], aside: Aside) -> None:
        self._heard = heard
        self._aside = aside

    async def take(self, record: Received) -> None:
        """Handle one record."""
        try:
            _, body = decode(
                record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
            )
            report = CapacityReported.model_validate_json(body)
        except MalformedEnvelopeError as error:
            await self._refuse(record, str(error))
        except ValidationError as error:
            await self._refuse(record, explain(error))
        else:
            self._heard(report)

    async def _refuse(self, record: Received, reason: str) -> None:
        log.warning(OrchestratorEvent.CAPACITY_REFUSED, offset=record.offset, reason=reason)
        await self._aside.put(record, reason)

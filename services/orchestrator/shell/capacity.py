"""Owns the reading of what engines report of their room: every instance reads it whole, from the beginning."""

from collections.abc import Callable

import structlog
from pydantic import ValidationError

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.contracts.messages import CapacityReported
from penstock.runtime.kafka.records import Received
from services.orchestrator.shell.inbox import explain
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()


class CapacityInbox:
    """Takes reports as they come. One that cannot be read is void, as it would soon be anyway: no dead letter."""

    def __init__(self, heard: Callable[[CapacityReported], None]) -> None:
        self._heard = heard

    async def take(self, record: Received) -> None:
        """Handle one record; a tombstone says that an engine is gone for good, as its silence does."""
        if record.value is None:
            return
        try:
            _, body = decode(
                record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
            )
            report = CapacityReported.model_validate_json(body)
        except MalformedEnvelopeError as error:
            log.warning(OrchestratorEvent.CAPACITY_REFUSED, offset=record.offset, reason=str(error))
        except ValidationError as error:
            log.warning(OrchestratorEvent.CAPACITY_REFUSED, offset=record.offset, reason=explain(error))
        else:
            self._heard(report)

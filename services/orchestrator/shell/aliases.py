"""Owns what `name@alias` means here: of all that was said of an alias, what was set last."""

import structlog
from pydantic import ValidationError

from penstock.contracts.envelope import MalformedEnvelopeError, decode
from penstock.contracts.messages import WorkflowAliased
from penstock.runtime.kafka.records import Received
from services.orchestrator.shell.inbox import explain
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()


class RefusedAliasError(ValueError):
    """The record says nothing of an alias that can be taken; the message says why."""


class Aliases:
    """All aliases by name and alias. The topic is compacted and read whole at every start: nothing is stored."""

    def __init__(self) -> None:
        self._aliases: dict[tuple[str, str], WorkflowAliased] = {}

    def find(self, name: str, alias: str) -> WorkflowAliased | None:
        """What an alias means now."""
        return self._aliases.get((name, alias))

    async def take(self, record: Received) -> None:
        """Take a record of workflow.aliased. Raises RefusedAliasError."""
        try:
            _, body = decode(
                record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
            )
            aliased = WorkflowAliased.model_validate_json(body)
        except MalformedEnvelopeError as error:
            raise RefusedAliasError(str(error)) from error
        except ValidationError as error:
            raise RefusedAliasError(explain(error)) from error
        known = self._aliases.get((aliased.name, aliased.alias))
        # The same rule as the gateway's table: what was set last holds, in whatever order it is read.
        if known is None or aliased.set_at >= known.set_at:
            self._aliases[aliased.name, aliased.alias] = aliased
            log.info(OrchestratorEvent.ALIAS_TAKEN, workflow=aliased.name, alias=aliased.alias, version=aliased.version)

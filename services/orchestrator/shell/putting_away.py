"""Owns what decisions put together that is too large to travel: references take its place, and it is stored first."""

from dataclasses import replace
from typing import Any, Final

import orjson

from penstock.contracts.blobs import INLINE_BYTES_MAX, Reference, externalised
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested, RunFinished, TaskRequested, ToolRequested
from services.orchestrator.core.children import ChildRequested
from services.orchestrator.core.state import Request, Run
from services.orchestrator.shell import records


class PutAway:
    """The large parts of one batch's requests and ends, by tenant. Nothing is put away where there is no store."""

    def __init__(self, *, stores: bool) -> None:
        self._stores: Final = stores
        self.contents: Final[dict[str, dict[Reference, bytes]]] = {}

    def request_record(self, voice: records.Voice, run: Run, request: Request | ChildRequested, cause: str) -> Outgoing:
        """The record of a request; what is large in what it asks with travels as a reference."""
        record = records.request_record(voice, request, cause)
        if not self._stores or len(record.value) <= INLINE_BYTES_MAX:
            return record
        match request:
            case InferenceRequested():
                return record  # a prompt is whole
            case TaskRequested():
                request = request.model_copy(update={"input": self._small(run.tenant, request.input)})
            case ToolRequested():
                request = request.model_copy(update={"arguments": self._small(run.tenant, request.arguments)})
            case ChildRequested():
                given = self._small(run.tenant, request.message.input)
                request = replace(request, message=request.message.model_copy(update={"input": given}))
        return records.request_record(voice, request, cause)

    def end(self, run: Run, finished: RunFinished) -> RunFinished:
        """How a run ended, in its row as in what is said of it."""
        if not self._stores or finished.output is None or len(orjson.dumps(finished.output)) <= INLINE_BYTES_MAX:
            return finished
        run.output = self._small(run.tenant, finished.output)
        return finished.model_copy(update={"output": run.output})

    def _small(self, tenant: str, value: Any) -> Any:
        small = externalised(value)
        self.contents.setdefault(tenant, {}).update(small.contents)
        return small.value

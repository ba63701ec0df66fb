"""Owns one tool call: granted, known and well-formed, or not made at all.

At most once, thinly: a call that is not idempotent and whose answer got lost is answered `unknown_outcome` and not
made again. What this cannot see is the executor's own death during such a call: the redelivery calls again, with the
same request id, which the server gets in the call's metadata as its idempotency key.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from mcp_types import CallToolResult, TextContent

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import NextMove, ToolRequested, WorkError
from penstock.runtime.kafka.cancellations import Cancellations, WorkStoppedError
from penstock.runtime.kafka.records import Received
from penstock.runtime.large_values import LargeValueError, LargeValues
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Answers, BadRequestError, Outcome, Work, cancelled, failed, read, too_late
from services.tool_executor.events import Event
from services.tool_executor.server import CallRefusedError, CallTimedOutError, ServerDiedError, Tool, ToolServer

OUTAGE_WAIT_SECONDS: Final = 10.0

_log = logger("caller")


class ToolCaller:
    """Answers requests for tools with the servers it is given."""

    def __init__(
        self,
        servers: Mapping[str, ToolServer],
        answers: Answers,
        large: LargeValues,
        home_partitions: int,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
        cancellations: Cancellations,
    ) -> None:
        self._servers: Final = servers
        self._answers: Final = answers
        self._large: Final = large
        self._home_partitions: Final = home_partitions
        self._now_ms: Final = now_ms
        self._clock: Final = clock
        self._cancellations: Final = cancellations

    async def handle(self, record: Received) -> Sequence[Outgoing]:
        """Answers one record. Raises Poison for one that cannot be read."""
        try:
            work = read(ToolRequested, record, self._home_partitions)
        except BadRequestError as bad:
            return self._answers.bad_request(bad, self._now_ms())
        started_at_ms, began = self._now_ms(), self._clock()
        try:
            with self._cancellations.heeding(work.request.request_id):  # the server is told by a notification
                seconds = (work.deadline_at_ms - started_at_ms) / 1000
                result = await self._stored(work, await self._result(work, seconds))
        except WorkStoppedError as error:
            result = cancelled(error)
        elapsed_ms = (self._clock() - began) * 1000
        outcome = Outcome(started_at_ms, elapsed_ms, completed={"tool": work.request.tool})
        if isinstance(result, bytes):
            outcome.output = result
        else:
            outcome.error = result
            _log.warning(
                Event.CALL_FAILED,
                request_id=str(work.request.request_id),
                run_id=work.request.run_id,
                tool=work.request.tool,
                code=result.code,
            )
        return self._answers.records(work, work.request.tool, outcome)

    async def _stored(self, work: Work[ToolRequested], result: bytes | WorkError) -> bytes | WorkError:
        stored = await self._large.stored(work, result)
        if isinstance(result, bytes) and isinstance(stored, WorkError) and not work.request.idempotent:
            # The call took effect; to retry for the sake of its output would make it again.
            return failed(stored.code, f"{stored.message}; the call was made, so it is not tried again")
        return stored

    async def _result(self, work: Work[ToolRequested], seconds: float) -> bytes | WorkError:
        request = work.request
        if seconds <= 0:
            return too_late("the deadline had passed before the tool was called")
        if request.tool not in request.grants:
            return failed("not_granted", f"this step is not granted {request.tool!r}")
        server_name, _, tool_name = request.tool.partition(".")
        server = self._servers.get(server_name)
        if server is None:
            known = ", ".join(sorted(self._servers)) or "none"
            return failed("unknown_server", f"no server is called {server_name!r} here; known: {known}")
        if not await server.wait_up(min(seconds, OUTAGE_WAIT_SECONDS)):
            return failed("server_away", f"server {server_name!r} is not up; nothing was called", NextMove.RETRY_AFTER)
        tool = server.tool(tool_name)
        if tool is None:
            return failed("unknown_tool", f"server {server_name!r} has no tool {tool_name!r}")
        try:
            arguments = await self._large.whole(work, request.arguments)
        except LargeValueError as error:
            return error.error
        fault = _fault(tool, arguments)
        if fault is not None:
            return failed("arguments_invalid", fault)
        if arguments is not request.arguments:
            request = request.model_copy(update={"arguments": arguments})
        return await self._call(server, tool, request, (work.deadline_at_ms - self._now_ms()) / 1000)

    async def _call(self, server: ToolServer, tool: Tool, request: ToolRequested, seconds: float) -> bytes | WorkError:
        try:
            result = await server.call(tool.name, request.arguments, str(request.request_id), max(seconds, 0.001))
        except (ServerDiedError, CallTimedOutError) as error:
            if request.idempotent:
                code = "timeout" if isinstance(error, CallTimedOutError) else "server_died"
                return failed(code, str(error), NextMove.RETRY_AFTER)
            return failed("unknown_outcome", f"{error}; whether it took effect is not known, so it is not tried again")
        except CallRefusedError as error:
            return failed("tool_failed", str(error))
        if result.is_error:
            return failed("tool_failed", _text(result) or "the tool failed without a word")
        return _output(result)


def _fault(tool: Tool, arguments: dict[str, Any]) -> str | None:
    """Where the arguments miss the tool's schema."""
    fault = next(iter(tool.arguments.iter_errors(arguments)), None)
    if fault is None:
        return None
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.instance_path)
    return f"arguments{path}: {fault.message}"


def _output(result: CallToolResult) -> bytes:
    """Structured content where there is some, else the text, else the content as the protocol has it."""
    if result.structured_content is not None:
        return orjson.dumps(result.structured_content)
    if all(isinstance(block, TextContent) for block in result.content):
        return orjson.dumps(_text(result))
    return orjson.dumps([block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content])


def _text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))

"""Owns one MCP server: its process, the session with it, its tools, and its restart when it dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import anyio
import jsonschema_rs
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult

from penstock.runtime.health import Health
from penstock.runtime.telemetry import logger
from services.tool_executor.events import Event
from services.tool_executor.settings import ServerSpec

START_SECONDS_MAX: Final = 30.0
RESTART_SECONDS_MIN: Final = 0.2
RESTART_SECONDS_MAX: Final = 30.0
TOOLS_MAX: Final = 1000
REQUEST_ID_META: Final = "penstock/request_id"
"""Under this name every call carries its idempotency key."""

_log = logger("mcp")


class ServerDiedError(Exception):
    """The server ended while it worked on the call: nobody knows whether it did what was asked."""


class CallTimedOutError(Exception):
    """The deadline came before the answer: the server may still be at it."""


class CallRefusedError(Exception):
    """The server answered with a protocol error, or with something that is no result."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its server lists it, with the check of its arguments compiled."""

    name: str
    arguments: jsonschema_rs.Validator


class ToolServer:
    """A session that is opened again when it ends. Calls run side by side."""

    def __init__(self, name: str, spec: ServerSpec, health: Health) -> None:
        self.name: Final = name
        self._spec: Final = spec
        self._health: Final = health
        self._up: Final = asyncio.Event()
        self._client: Client | None = None
        self._tools: dict[str, Tool] = {}
        health.set_ready(self._part, False, "not started yet")

    @property
    def _part(self) -> str:
        return f"server {self.name}"

    async def wait_up(self, seconds: float) -> bool:
        """Whether the server is there, now or within that time."""
        if not self._up.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._up.wait()
        return self._up.is_set()

    def tool(self, name: str) -> Tool | None:
        """A tool that the server lists."""
        return self._tools.get(name)

    async def call(self, tool: str, arguments: dict[str, Any], request_id: str, seconds: float) -> CallToolResult:
        """One call. Raises ServerDiedError, CallTimedOutError or CallRefusedError."""
        client = self._client
        meta: Any = {REQUEST_ID_META: request_id}
        if client is None:
            raise ServerDiedError(f"server {self.name!r} is away")
        try:
            return await client.call_tool(tool, arguments, read_timeout_seconds=seconds, meta=meta)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise ServerDiedError(f"server {self.name!r} ended during the call") from error
            if error.code == REQUEST_TIMEOUT:
                raise CallTimedOutError(f"no answer within {seconds:.1f} s") from error
            raise CallRefusedError(f"{error.code}: {error.message}") from error
        except (RuntimeError, ValueError) as error:  # the client found the result malformed or off its schema
            raise CallRefusedError(str(error)) from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise ServerDiedError(f"server {self.name!r} ended during the call") from error

    async def run(self) -> None:
        """Keeps a session open until cancelled."""
        pause_seconds = RESTART_SECONDS_MIN
        while True:
            reason = "its process ended"
            try:
                was_up = await self._session()
            except* (MCPError, OSError, TimeoutError, RuntimeError, ValueError) as group:
                was_up, reason = self._up.is_set(), _first(group)
            finally:
                self._up.clear()
                self._client = None
            self._health.set_ready(self._part, False, reason)
            _log.warning(Event.SERVER_AWAY, server=self.name, reason=reason)
            pause_seconds = RESTART_SECONDS_MIN if was_up else min(pause_seconds * 2, RESTART_SECONDS_MAX)
            await asyncio.sleep(pause_seconds)

    async def _session(self) -> bool:
        """One session, from the start of the process to its end."""
        parameters = StdioServerParameters(
            command=self._spec.command, args=self._spec.args, env=self._spec.env, cwd=self._spec.cwd
        )
        ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            async with asyncio.timeout(START_SECONDS_MAX):
                client = await stack.enter_async_context(Client(_watched(parameters, ended)))
                self._tools = await _tools_of(self.name, client)
            self._client = client
            self._up.set()
            self._health.set_ready(self._part, True, f"{len(self._tools)} tools")
            _log.info(Event.SERVER_UP, server=self.name, tools=sorted(self._tools))
            await ended.wait()
            self._up.clear()
            self._client = None
        return True


@contextlib.asynccontextmanager
async def _watched(parameters: StdioServerParameters, ended: asyncio.Event) -> AsyncIterator[Any]:
    """The stdio transport, which tells when the server's output ended: the session itself would keep silent."""
    async with stdio_client(parameters) as (source, write), anyio.create_task_group() as tasks:
        sink, read = anyio.create_memory_object_stream[Any](0)

        async def forward() -> None:
            async with sink:
                with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                    async for message in source:
                        await sink.send(message)
            ended.set()

        tasks.start_soon(forward)
        try:
            yield read, write
        finally:
            tasks.cancel_scope.cancel()
            read.close()


async def _tools_of(server: str, client: Client) -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        for listed in page.tools:
            try:
                arguments = jsonschema_rs.validator_for(listed.input_schema, offline=True)
            except (ValueError, jsonschema_rs.ReferencingError) as error:
                _log.warning(Event.TOOL_REFUSED, server=server, tool=listed.name, reason=str(error))
                continue
            tools[listed.name] = Tool(listed.name, arguments)
        cursor = page.next_cursor
        if cursor is None:
            return tools
        if len(tools) > TOOLS_MAX:
            raise RuntimeError(f"server {server!r} lists more than {TOOLS_MAX} tools")


def _first(error: BaseException) -> str:
    """The innermost first cause, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"

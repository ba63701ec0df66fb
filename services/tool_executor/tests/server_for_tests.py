"""An MCP server whose tools do what the tests ask: answer, fail, die, wait, show what they were given."""

import os
import signal
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool(structured_output=False)
def say(text: str) -> str:
    """Says it back as text."""
    return text


@server.tool()
def environment() -> dict[str, str]:
    """All variables that the process was given."""
    return dict(os.environ)


@server.tool()
def fail(message: str) -> str:
    """Fails."""
    raise ToolError(message)


@server.tool()
def idempotency_key(context: Context) -> dict[str, Any]:
    """The metadata of the call."""
    return dict(context.request_context.meta or {})


@server.tool()
async def wait() -> str:
    """Never answers."""
    await anyio.sleep_forever()
    return ""


@server.tool()
async def wait_to_be_cancelled(folder: str) -> str:
    """Never answers, and leaves a file when it is told to stop."""
    (Path(folder) / "begun").touch()
    try:
        await anyio.sleep_forever()
    finally:
        (Path(folder) / "cancelled").touch()
    return ""


@server.tool()
def die_once(marker: str) -> str:
    """Kills the process in the middle of the first call, answers in the next."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@server.tool()
def large() -> str:
    """More than fits into an answer."""
    return "x" * 600_000


if __name__ == "__main__":
    server.run("stdio")

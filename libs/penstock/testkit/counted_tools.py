"""Owns an MCP server whose calls can be counted: each leaves a line in the ledger of penstock.testkit.counted.

Runs by path, without the library beside it: `{python} counted_tools.py`.
"""

import os

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

REQUEST_ID_META = "penstock/request_id"
"""Where the tool executor puts the request id."""

server = MCPServer("counted")


@server.tool()
async def note(context: Context, ledger: str, run_id: str, milliseconds: float = 0.0) -> str:
    """Takes that long and says so."""
    request_id = dict(context.request_context.meta or {})[REQUEST_ID_META]
    _write(ledger, f"begun\t{request_id}\t{run_id}\tmain/note\n")
    await anyio.sleep(milliseconds / 1000)
    _write(ledger, f"ended\t{request_id}\t{run_id}\tmain/note\n")
    return "noted"


def _write(ledger: str, line: str) -> None:
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


if __name__ == "__main__":
    server.run("stdio")

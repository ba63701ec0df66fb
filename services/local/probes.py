"""Owns the questions by which a part is known to be ready. They are asked while it starts, never afterwards."""

import asyncio
import contextlib
import http.client
from collections.abc import Awaitable, Callable

from services.local.ports import LOOPBACK

PAUSE_SECONDS = 0.05
ANSWER_SECONDS = 5.0


async def until(holds: Callable[[], Awaitable[bool]], pause_seconds: float = PAUSE_SECONDS) -> None:
    """Return when the question is answered with yes."""
    while True:
        if await holds():
            return
        await asyncio.sleep(pause_seconds)


async def port_open(port: int) -> None:
    """Return when something accepts connections on the port."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return
        await asyncio.sleep(PAUSE_SECONDS)


async def http_ok(port: int, path: str) -> None:
    """Return when a GET answers 200."""
    await port_open(port)

    async def answers() -> bool:
        return await asyncio.to_thread(http_status, port, path) == http.client.OK

    await until(answers)


def http_status(port: int, path: str) -> int | None:
    """The status a GET answers with, None where nobody answers."""
    return http_answer(port, path)[0]


def http_answer(port: int, path: str) -> tuple[int | None, bytes]:
    """The status and the body a GET answers with."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()

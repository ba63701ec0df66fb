"""Owns serving HTTP: uvicorn without its signal handlers and without its tick."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from uvicorn import Config, Server


class QuietServer(Server):
    """uvicorn wakes ten times a second to look at a flag; this one waits for the event that would set it."""

    def __init__(self, config: Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    async def main_loop(self) -> None:
        """Returns when the service stops."""
        self.server_state.default_headers = self.config.encoded_headers
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the runtime."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError where the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.setblocking(False)
    return listener


async def serve(app: Any, listener: socket.socket, stop: asyncio.Event, drain_seconds: float) -> None:
    """Serves until the service stops, then lets requests in hand end."""
    config = Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(drain_seconds / 2)),
    )
    await QuietServer(config, stop).serve(sockets=[listener])

"""Owns a service's health: which parts are ready, whether the loop answers, and the HTTP that says so."""

import asyncio
import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

LOOP_SILENT_SECONDS_MAX = 10.0
PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that must be ready before the service is."""

    ready: bool
    detail: str


class Health:
    """Written by the loop, read by the HTTP thread; single assignments into a dict need no lock."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unanswered_since: float | None = None

    def set_ready(self, part: str, ready: bool, detail: str = "") -> None:
        """Say how a part is."""
        self._parts[part] = Part(ready, detail)

    @property
    def ready(self) -> bool:
        """Whether every part that was ever named is ready, and at least one was."""
        parts = list(self._parts.values())
        return bool(parts) and all(part.ready for part in parts)

    def report(self) -> dict[str, Any]:
        """The body of /readyz."""
        parts = dict(self._parts)
        return {
            "ready": self.ready,
            "parts": {name: {"ready": part.ready, "detail": part.detail} for name, part in sorted(parts.items())},
        }

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that /healthz asks."""
        self._loop = loop

    def loop_silent_seconds(self) -> float:
        """How long the loop has not answered. Asks it now and waits a moment: nothing runs between probes."""
        loop = self._loop
        if loop is None:
            return 0.0
        answered = threading.Event()
        asked_at = time.monotonic()
        try:
            loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # the loop is closed: the process is about to end
            return 0.0
        if answered.wait(PROBE_SECONDS):
            self._unanswered_since = None
            return 0.0
        if self._unanswered_since is None:
            self._unanswered_since = asked_at
        return time.monotonic() - self._unanswered_since


class HealthServer:
    """/healthz, /readyz and /metrics on a thread of their own."""

    def __init__(self, health: Health, registry: CollectorRegistry, host: str, port: int) -> None:
        self._server = make_server(
            host, port, _application(health, registry), server_class=_ThreadingServer, handler_class=_QuietHandler
        )
        self._address = (host, self._server.server_port)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on, which the system chose where the settings said 0."""
        return self._server.server_port

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._stopping = True
        with contextlib.suppress(OSError), socket.create_connection(self._address, PROBE_SECONDS):
            pass  # wakes the thread out of its wait for a connection
        self._thread.join(PROBE_SECONDS)
        self._server.server_close()

    def _serve(self) -> None:
        # serve_forever would wake twice a second to look whether it should stop.
        while not self._stopping:
            self._server.handle_request()


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    """One thread per request: a probe of a silent loop must not hold up /metrics."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Probes every few seconds are not news."""


def _application(health: Health, registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/healthz":
                silent = health.loop_silent_seconds()
                alive = silent < LOOP_SILENT_SECONDS_MAX
                status, body = _json(alive, {"alive": alive, "loop_silent_seconds": round(silent, 1)})
            case "/readyz":
                report = health.report()
                status, body = _json(report["ready"], report)
            case "/metrics":
                start_response("200 OK", [("content-type", CONTENT_TYPE_LATEST)])
                return [generate_latest(registry)]
            case _:
                status, body = "404 Not Found", b'{"paths": ["/healthz", "/readyz", "/metrics"]}'
        start_response(status, [("content-type", "application/json")])
        return [body]

    return answer


def _json(good: bool, body: dict[str, Any]) -> tuple[str, bytes]:
    return ("200 OK" if good else "503 Service Unavailable"), json.dumps(body).encode()

"""Owns how request bodies and paths are read: bounded, strict JSON, run ids percent-encoded."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import Depends, Path, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.contracts.ids import RUN_ID_PATTERN, TENANT_PATTERN
from services.gateway.api.problems import FaultBody, ProblemError, document
from services.gateway.settings import GatewaySettings

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


class StrictRequest(Request):
    """A request whose body is bounded, and JSON by RFC 8259: no NaN, no broken UTF-8."""

    @staticmethod
    def limit_of(settings: GatewaySettings) -> int:
        """How many bytes are taken."""
        return settings.gateway_body_bytes_max

    async def body(self) -> bytes:
        """Raises 413 as soon as there are more bytes than the gateway takes."""
        if not hasattr(self, "_body"):
            limit = self.limit_of(self.app.state.gateway.settings)
            chunks: list[bytes] = []
            size = 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > limit:
                    raise ProblemError(413, "too_large", "The body is too large", f"At most {limit} bytes are taken.")
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """Raises json.JSONDecodeError, which the framework turns into its own error."""
        if not hasattr(self, "_json"):
            body = await self.body()
            if b"{" in body[:1] or not self._is_form():
                self._json = orjson.loads(body)
            else:
                raise json.JSONDecodeError("expected a JSON object", "", 0)
        return self._json

    def _is_form(self) -> bool:
        return self.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form-urlencoded"))


class LargeRequest(StrictRequest):
    """A request that may bring a whole document."""

    @staticmethod
    def limit_of(settings: GatewaySettings) -> int:
        """See StrictRequest."""
        return settings.gateway_input_bytes_max


class StrictRoute(APIRoute):
    """A route that reads its requests so."""

    request_class: type[StrictRequest] = StrictRequest

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(self.request_class(request.scope, request.receive))

        return strictly


class LargeRoute(StrictRoute):
    """A route for whole documents."""

    request_class = LargeRequest


class Door:
    """Keeps paths as they were sent, so that a run id may hold a slash, and other sites' pages out.

    There is no authentication, so a web page that a person visits must not be able to speak to the gateway: names
    other than this machine's are refused (DNS rebinding), and a write needs a content type that browsers ask about.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = _refused(scope)
        if problem is not None:
            await document(problem, scope["path"])(scope, receive, send)
            return
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        await self._app({**scope, "path": raw.partition(b"?")[0].decode("latin-1")}, receive, send)


def _refused(scope: Scope) -> ProblemError | None:
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "localhost")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in LOOPBACK_NAMES:
        detail = f"The host {host!r} is not a name of this machine's loopback."
        return ProblemError(421, "wrong_host", "Not this host", detail, hint="use http://127.0.0.1")
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if scope["method"] in ("POST", "PUT") and not _asked_about(media_type):
        detail = "Writes need a content type: application/json, application/yaml for a definition, image/… for a blob."
        return ProblemError(415, "content_type", "The content type is missing or unknown", detail)
    return None


def _asked_about(media_type: str) -> bool:
    """Whether a browser asks the gateway before it lets another site's page send this."""
    return media_type.endswith(("json", "yaml", "/octet-stream")) or media_type.startswith("image/")


def tenant(tenant: str = "default") -> str:
    """The tenant that a request speaks for."""
    if TENANT_PATTERN.fullmatch(tenant) is None:
        detail = f"{tenant!r} is no tenant: {TENANT_PATTERN.pattern}"
        fault = FaultBody(path="query.tenant", message=f"does not match {TENANT_PATTERN.pattern}")
        raise ProblemError(422, "invalid_tenant", "The tenant is not valid", detail, errors=[fault])
    return tenant


def run_id(
    run_id: Annotated[str, Path(description="percent-encoded: 1 to 128 printable ASCII characters before that")],
) -> str:
    """The run that a path names."""
    decoded = unquote(run_id, errors="replace")
    if RUN_ID_PATTERN.fullmatch(decoded) is None:
        fault = FaultBody(path="path.run_id", message="expected 1 to 128 printable ASCII characters")
        raise ProblemError(400, "invalid_run_id", "The run id is not valid", fault.message, errors=[fault])
    return decoded


TenantOf = Annotated[str, Depends(tenant)]
RunIdOf = Annotated[str, Depends(run_id)]

"""Owns speaking to the gateway: requests, its problems as failures, its event streams with reconnection."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from services.cli.failures import EXIT_FAILED, EXIT_UNREACHABLE, CommandError, unreachable
from services.cli.settings import gateway_url

TIMEOUT_SECONDS = 30.0
STREAM_SILENT_SECONDS = 60.0
RECONNECTIONS_MAX = 20


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    name: str
    data: Any
    id: str | None


class Door:
    """A client of one gateway."""

    def __init__(self, data: Path | None) -> None:
        self._data = data
        self._url = gateway_url(data)
        self._http = httpx.Client(base_url=self._url, timeout=TIMEOUT_SECONDS)

    def beside(self) -> "Door":
        """Another client of the same gateway, for another thread."""
        return Door(self._data)

    def get(self, path: str, **query: Any) -> Any:
        """The body of an answer."""
        return self._ask("GET", path, params=_given(query))

    def find(self, path: str, **query: Any) -> Any:
        """The body of an answer; None where there is no such thing."""
        answer = self._try("GET", path, params=_given(query))
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise _failure(answer)
        return answer.json()

    def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, **query: Any) -> Any:
        """The body of an answer."""
        return self._ask("POST", path, json=body, headers=headers, params=_given(query))

    def put(self, path: str, text: str, media_type: str) -> tuple[int, Any]:
        """The status and body of an answer."""
        answer = self._send("PUT", path, content=text.encode(), headers={"content-type": media_type})
        return answer.status_code, answer.json()

    def lines(self, path: str, **query: Any) -> Iterator[Any]:
        """A JSON document per line of a long answer. Raises CommandError where it breaks off."""
        try:
            with self._http.stream("GET", path, params=_given(query), timeout=STREAM_SILENT_SECONDS) as stream:
                if stream.status_code != 200:
                    stream.read()
                    raise _failure(stream)
                for line in stream.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise unreachable("the gateway", self._url, str(error)) from None

    def events(self, path: str, tenant: str, end: str = "finished") -> Iterator[Event]:
        """A run's events up to the one that is its end; connects again where the stream breaks."""
        last: str | None = None
        breaks = 0
        while True:
            headers = {} if last is None else {"last-event-id": last}
            try:
                with self._http.stream(
                    "GET", path, params={"tenant": tenant}, headers=headers, timeout=STREAM_SILENT_SECONDS
                ) as stream:
                    if stream.status_code != 200:
                        stream.read()
                        raise _failure(stream)
                    for event in _parsed(stream.iter_lines()):
                        last, breaks = event.id or last, 0
                        yield event
                        if event.name == end:
                            return
            except httpx.TransportError as error:
                breaks += 1
                if breaks > RECONNECTIONS_MAX or last is None:
                    raise unreachable("the gateway", self._url, str(error)) from None

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        return self._send(method, path, **request).json()

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        answer = self._try(method, path, **request)
        if answer.is_error:
            raise _failure(answer)
        return answer

    def _try(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise unreachable("the gateway", self._url, str(error)) from None


def run_path(run_id: str) -> str:
    """A run's address; its id may hold anything printable."""
    return f"/v1/runs/{quote(run_id, safe='')}"


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _failure(answer: httpx.Response) -> CommandError:
    try:
        problem = answer.json()
    except ValueError:
        return CommandError(f"{answer.request.url} answered {answer.status_code}", code=EXIT_UNREACHABLE)
    details = tuple(
        f"{fault['path']}: {fault['message']}" + (f" ({fault['hint']})" if fault.get("hint") else "")
        for fault in problem.get("errors", [])
    )
    title, detail = problem.get("title", "refused"), problem.get("detail", "")
    message = title if details else f"{title}: {detail}"
    faulty = problem.get("code") == "invalid_definition"
    code = EXIT_UNREACHABLE if answer.status_code >= 500 else EXIT_FAILED if faulty else 2
    return CommandError(message, hint=problem.get("hint") or "", code=code, details=details)


def _parsed(lines: Iterator[str]) -> Iterator[Event]:
    name, identifier, data = "message", None, []
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            identifier = value
        elif field == "data":
            data.append(value)
        elif not line and data:
            yield Event(name, json.loads("\n".join(data)), identifier)
            name, data = "message", []

"""Owns live events: a run's progress as server-sent events, from any sequence on, until its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from penstock.contracts.ids import run_key
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import TERMINAL, gateway_of, unknown_run
from services.gateway.api.strict import RunIdOf, StrictRoute, TenantOf
from services.gateway.gateway import Gateway
from services.gateway.live import wait_for_news

HEARTBEAT_SECONDS: Final = 15.0
SEND_SECONDS: Final = 30.0
RETRY_MS: Final = 1_000
LAST_PROGRESS_SECONDS: Final = 5.0

router = APIRouter(tags=["runs"], route_class=StrictRoute, responses={404: {"model": ProblemBody}})


class EventStream(StreamingResponse):
    """A stream that ends when its client stops reading: what it missed waits in the tables."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Each piece has SEND_SECONDS to leave."""

        async def bounded(message: Any) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            await super().stream_response(bounded)
        except TimeoutError:
            return

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


@router.get(
    "/v1/runs/{run_id}/events",
    response_class=EventStream,
    responses={200: {"content": {"text/event-stream": {"example": "id: 3\nevent: progress\ndata: {…}\n\n"}}}},
)
async def watch_run(
    request: Request,
    run_id: RunIdOf,
    tenant: TenantOf,
    last_event_id: Annotated[str | None, Header(description="the sequence of the last event that was seen")] = None,
) -> EventStream:
    """Watch a run: `progress` events, each with a `run.progressed` body, then one `finished` with its end."""
    gateway = gateway_of(request)
    after = _sequence(last_event_id)
    key = run_key(tenant, run_id)
    if await gateway.reader.run(key) is None and await gateway.reader.accepted(key) is None:
        raise unknown_run(run_id, tenant)
    if gateway.live.open >= gateway.settings.gateway_streams_max:
        detail = f"{gateway.live.open} streams are open, no more are taken."
        raise ProblemError(503, "too_many_streams", "Too many streams", detail)
    loop_time = asyncio.get_running_loop().time
    return EventStream(_events(gateway, key, after, loop_time), headers={"cache-control": "no-store"})


async def _events(gateway: Gateway, key: UUID, after: int, loop_time: Callable[[], float]) -> AsyncIterator[bytes]:
    ends_at = loop_time() + gateway.settings.gateway_stream_seconds_max
    silent_since = loop_time()
    ended_since: float | None = None
    yield b"retry: %d\n\n" % RETRY_MS
    with gateway.live.watching(key) as news:
        gateway.instruments.live_streams.set(gateway.live.open)
        while not gateway.stop.is_set() and loop_time() < ends_at:
            # The end is read before the progress: what came between is sent with the next round, never skipped.
            row = await gateway.reader.run(key)
            page = await gateway.reader.progress(key, after)
            for sequence, body in page:
                after = sequence
                silent_since = loop_time()
                yield event("progress", body, sequence)
            if page:
                continue
            if row is not None and row["ending"] is not None:
                # A run's end and its progress come on two topics: the end may be here before the last of the progress.
                ended_since = loop_time() if ended_since is None else ended_since
                late = loop_time() - ended_since >= LAST_PROGRESS_SECONDS
                if late or (row["progress_status"] in TERMINAL and after >= row["sequence"]):
                    yield event("finished", orjson.dumps(row["ending"]))
                    return
            else:
                ended_since = None
            if loop_time() - silent_since >= HEARTBEAT_SECONDS:
                silent_since = loop_time()
                yield b": still here\n\n"
            due = [silent_since + HEARTBEAT_SECONDS, ends_at, loop_time() + gateway.live.look_seconds]
            if ended_since is not None:
                due.append(ended_since + LAST_PROGRESS_SECONDS)
            await wait_for_news(news, max(0.0, min(due) - loop_time()))
        yield b": connect again\n\n"


def event(name: str, body: bytes, identifier: object = None) -> bytes:
    """One event as it goes over the wire."""
    # A body may hold line breaks between its tokens; in an event each line is a data line.
    lines = b"\n".join(b"data: " + line for line in body.splitlines())
    head = b"" if identifier is None else f"id: {identifier}\n".encode()
    return head + b"event: " + name.encode() + b"\n" + lines + b"\n\n"


def _sequence(last_event_id: str | None) -> int:
    if last_event_id is None or not last_event_id.strip():
        return -1
    try:
        sequence = int(last_event_id)
    except ValueError:
        sequence = -1
    if not 0 <= sequence < 2**63:
        fault = FaultBody(path="header.last-event-id", message="expected the id of an event")
        raise ProblemError(400, "invalid_event_id", "The event id is not valid", fault.message, errors=[fault])
    return sequence

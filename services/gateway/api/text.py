"""Owns watching answers while they come: the text of a run's steps as server-sent events, until the run's end."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from aiokafka.errors import KafkaError
from fastapi import APIRouter, Header, Request

from penstock.contracts.ids import run_key
from penstock.runtime.clock import now_ms
from penstock.runtime.errors import Unavailable
from services.gateway.api.events import HEARTBEAT_SECONDS, RETRY_MS, EventStream, event
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of, unknown_run
from services.gateway.api.strict import RunIdOf, StrictRoute, TenantOf
from services.gateway.gateway import Gateway
from services.gateway.pieces import PieceReader, Place

LOOK_BACK_MS: Final = 600_000
"""How far back a watcher who has seen nothing yet is shown what came before."""
LAST_PIECE_SECONDS: Final = 5.0
"""How long the last piece of an answer is waited for once its run is over."""
SHOWN: Final = (
    "request_id",
    "step",
    "attempt",
    "sequence",
    "from_character",
    "text",
    "tokens",
    "final",
    "status",
    "finish_reason",
    "sha256",
)

router = APIRouter(tags=["runs"], route_class=StrictRoute, responses={404: {"model": ProblemBody}})


@router.get(
    "/v1/runs/{run_id}/stream",
    response_class=EventStream,
    responses={200: {"content": {"text/event-stream": {"example": "id: 0-17\nevent: piece\ndata: {…}\n\n"}}}},
)
async def watch_text(
    request: Request,
    run_id: RunIdOf,
    tenant: TenantOf,
    last_event_id: Annotated[str | None, Header(description="the id of the last event that was seen")] = None,
) -> EventStream:
    """Watch the answers of steps with `stream: true` while they come: `piece` events, then one `ended`.

    A piece's `text` begins at `from_character` of its request's answer and replaces what was there; `sequence` 0 begins
    from nothing. After a break pieces may come again, and none is left out for as long as the topic keeps them.
    """
    gateway = gateway_of(request)
    after = _place(last_event_id)
    key = run_key(tenant, run_id)
    row = await gateway.reader.run(key)
    if row is None and await gateway.reader.accepted(key) is None:
        raise unknown_run(run_id, tenant)
    streams_max = gateway.settings.gateway_text_streams_max
    if gateway.pieces.open >= streams_max:
        detail = f"{gateway.pieces.open} text streams are open, no more are taken."
        raise ProblemError(503, "too_many_streams", "Too many streams", detail)
    return EventStream(_pieces(gateway, key, after, _since_ms(row)), headers={"cache-control": "no-store"})


async def _pieces(gateway: Gateway, key: UUID, after: Place | None, since_ms: int) -> AsyncIterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    try:
        async with gateway.pieces.of(key, after, since_ms) as reader:
            async for sent in _while_it_runs(gateway, key, reader):
                yield sent
    except (KafkaError, Unavailable):
        yield b": connect again\n\n"


async def _while_it_runs(gateway: Gateway, key: UUID, reader: PieceReader) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    ends_at, silent_since = clock() + gateway.settings.gateway_stream_seconds_max, clock()
    end: tuple[int, float] | None = None
    while not gateway.stop.is_set() and clock() < ends_at:
        # The end is looked for before the pieces are: what came between is sent with the next round.
        row = await gateway.reader.run(key)
        if row is None or row["ending"] is None:
            end = None
        elif end is None:
            end = await reader.end(), clock()
        pieces, place = await reader.read()
        for number, piece in enumerate(pieces, 1):
            silent_since = clock()
            # Only the last has an id: answers side by side were put together, and none may be skipped by who returns.
            yield event("piece", _shown(piece), place if number == len(pieces) else None)
        late = end is not None and clock() - end[1] >= LAST_PIECE_SECONDS
        if row is not None and end is not None and reader.has_reached(end[0]) and (late or not reader.open):
            yield event("ended", orjson.dumps({"status": row["ending"]["status"]}))
            return
        if clock() - silent_since >= HEARTBEAT_SECONDS:
            silent_since = clock()
            yield b": still here\n\n"
    yield b": connect again\n\n"


def _shown(piece: dict[str, Any]) -> bytes:
    return orjson.dumps({name: piece[name] for name in SHOWN if piece.get(name) is not None})


def _since_ms(row: dict[str, Any] | None) -> int:
    earliest_ms = now_ms() - LOOK_BACK_MS
    started_at = None if row is None else row["started_at"]
    if not isinstance(started_at, datetime):
        return earliest_ms
    return max(earliest_ms, int(started_at.timestamp() * 1000))


def _place(last_event_id: str | None) -> Place | None:
    if last_event_id is None or not last_event_id.strip():
        return None
    try:
        return Place.parse(last_event_id.strip())
    except ValueError:
        fault = FaultBody(path="header.last-event-id", message="expected the id of an event")
        raise ProblemError(
            400, "invalid_event_id", "The event id is not valid", fault.message, errors=[fault]
        ) from None

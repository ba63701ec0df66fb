"""Owns sending answers while they come: piece by piece, without ever holding up the engine or what is paid for.

One piece of an answer is on its way at a time, and none while much else is: then the next is larger. The end is always
sent. What the broker refused, or an answer that turned out otherwise, makes the pieces begin again from nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from penstock.contracts.envelope import Heading, Outgoing, rfc3339
from penstock.contracts.messages import InferenceRequested, InferenceStreamed
from penstock.contracts.topics import INFERENCE_STREAMED
from penstock.runtime.errors import NotAcknowledged
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Work
from services.inference.core.coalesce import Coalescer, Pace, Piece
from services.inference.engines.protocol import Delta
from services.inference.events import Event

PENDING_BYTES_MAX: Final = 1_048_576
"""What may be on its way to the broker, answers and all, for a piece that is not the last to be sent now."""
SOURCE: Final = "penstock/inference"

_HEADING: Final = Heading(INFERENCE_STREAMED, SOURCE)
_log = logger("streaming")


class Sender(Protocol):
    """What is asked of a publisher."""

    @property
    def pending_bytes(self) -> int:
        """Bytes on their way."""
        ...

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        """Queues records in order; resolves when they are acknowledged, raises NotAcknowledged."""
        ...


class Streaming:
    """Opens streams for the requests that ask for one."""

    def __init__(self, sender: Sender, pace: Pace, now_ms: Callable[[], int]) -> None:
        self._sender: Final = sender
        self._pace: Final = pace
        self._now_ms: Final = now_ms

    def open(self, work: Work[InferenceRequested]) -> "AnswerStream | None":
        """A stream from nothing; None where nobody asked for it, or there will be no text."""
        if not work.request.stream or work.request.operation == "embedding":
            return None
        return AnswerStream(work, self._sender, Coalescer(self._pace), self._now_ms)


class AnswerStream:
    """One answer on its way out. All its methods return at once."""

    def __init__(
        self, work: Work[InferenceRequested], sender: Sender, coalescer: Coalescer, now_ms: Callable[[], int]
    ) -> None:
        self._work: Final = work
        self._sender: Final = sender
        self._coalescer: Final = coalescer
        self._now_ms: Final = now_ms
        self._loop: Final = asyncio.get_running_loop()
        self._began_ms: Final = now_ms()
        self._on_its_way: asyncio.Future[None] | None = None
        self._lost = False
        self._due: asyncio.TimerHandle | None = None
        self._over = False

    def hear(self, delta: Delta) -> None:
        """The engine said more."""
        self._coalescer.hear(delta.text, delta.tokens)
        self._go_on()

    def end(self, answer: str | None, tokens: int, finish_reason: str | None = None) -> None:
        """The attempt is over: with this answer, or without one where it failed."""
        self.drop()
        if self._lost:
            self._coalescer.begin_again()
        pieces = self._coalescer.end(answer, tokens)
        status = "failed" if answer is None else "succeeded"
        records = [self._record(piece, status, finish_reason) for piece in pieces]
        self._sender.send(records).add_done_callback(self._acknowledged)

    def drop(self) -> None:
        """Nobody says more here: the request will be answered elsewhere, from the beginning."""
        self._over = True
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _go_on(self) -> None:
        """Sends what is due, or sees to it that this is asked again."""
        if self._over or self._due is not None or self._on_its_way is not None:
            return
        now = self._loop.time() * 1000
        due_in_ms = self._coalescer.due_in_ms(now)
        if due_in_ms is None:
            return
        if due_in_ms > 0:
            self._wait(due_in_ms)
        elif self._sender.pending_bytes >= PENDING_BYTES_MAX:
            self._wait(self._coalescer.pace.every_ms)
        else:
            records = [self._record(piece) for piece in self._coalescer.take(now)]
            self._on_its_way = self._sender.send(records)
            self._on_its_way.add_done_callback(self._acknowledged)

    def _wait(self, milliseconds: float) -> None:
        self._due = self._loop.call_later(milliseconds / 1000, self._woken)

    def _woken(self) -> None:
        self._due = None
        self._go_on()

    def _acknowledged(self, sent: "asyncio.Future[None]") -> None:
        self._on_its_way = None
        error = None if sent.cancelled() else sent.exception()
        if isinstance(error, NotAcknowledged):
            _log.warning(Event.PIECE_LOST, request_id=str(self._work.request.request_id), error=str(error))
            self._lost = True
        self._go_on()

    def _record(self, piece: Piece, status: str | None = None, finish_reason: str | None = None) -> Outgoing:
        request, at_ms = self._work.request, self._now_ms()
        final = piece.sha256 is not None
        message = InferenceStreamed.trusted(
            {
                "request_id": request.request_id,
                "tenant": request.tenant,
                "run_key": request.run_key,
                "run_id": request.run_id,
                "step": request.step,
                "attempt": request.attempt,
                "sequence": piece.sequence,
                "from_character": piece.from_character,
                "text": piece.text,
                "tokens": piece.tokens,
                "final": final,
                "status": status if final else None,
                "finish_reason": finish_reason if final else None,
                "sha256": piece.sha256,
                "at": datetime.fromtimestamp(at_ms / 1000, UTC),
            }
        )
        traceparent = self._work.traceparent
        headers = _HEADING.headers(
            # Pieces of a redelivery are others: their cut depends on when the text came.
            f"{request.request_id}/{self._began_ms}/{piece.sequence}",
            rfc3339(at_ms).encode(),
            request.tenant.encode(),
            request.run_id.encode(),
            self._work.cause.decode(),
            "" if traceparent is None else traceparent.decode(),
        )
        return Outgoing(
            topic=INFERENCE_STREAMED.name,
            key=str(request.run_key).encode(),
            value=message.to_json(),
            headers=headers if traceparent is not None else headers[:-1],
        )

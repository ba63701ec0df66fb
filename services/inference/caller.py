"""Owns one model call: from a request's record to its two answers, with every token and engine second paid once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from penstock.contracts.blobs import INLINE_BYTES_MAX
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.cancellations import Cancellations, WorkStoppedError
from penstock.runtime.kafka.records import Received
from penstock.runtime.large_values import LargeValues
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Answers, BadRequestError, Work, cancelled, failed, too_late
from services.inference.answering import CallAnswers, Result
from services.inference.core import structured
from services.inference.core.images import images_of
from services.inference.core.refusals import Accepted
from services.inference.engines.protocol import AbortedError, EngineFailedError, Generation, OnDelta
from services.inference.events import Event
from services.inference.images import Images
from services.inference.station import Station, Stations, Stay
from services.inference.streaming import AnswerStream, Streaming
from services.inference.telemetry import InferenceInstruments
from services.inference.tickets import Reader, Ticket

POISON: Final = "poison_request"
"""What killed an engine twice: its run is told, and the record goes to the dead letters with its bytes."""
GONE: Final = frozenset({"engine_unreachable", "engine_died", "engine_hung"})
"""Nobody there: others need not find that out each for itself."""

_log = logger("caller")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance does: for which pool, and for how many homes."""

    pool: str
    home_partitions: int


class ModelCaller:
    """Calls the engines of this process. How many at a time, and in which order, is the queue's."""

    def __init__(
        self,
        stations: Stations,
        answers: Answers,
        limits: Limits,
        now_ms: Callable[[], int],
        cancellations: Cancellations,
        images: Images | None = None,
        instruments: InferenceInstruments | None = None,
        streaming: Streaming | None = None,
        large: LargeValues | None = None,
    ) -> None:
        self._reader: Final = Reader(stations, limits.pool, limits.home_partitions)
        self._answers: Final = CallAnswers(answers, limits.pool)
        self._now_ms: Final = now_ms
        self._images: Final = Images() if images is None else images
        self._cancellations: Final = cancellations
        self._instruments: Final = instruments
        self._streaming: Final = streaming
        self._large: Final = large

    async def handle(self, record: Received) -> Sequence[Outgoing]:
        """Answers one record. Raises Poison for one that cannot be read or answered."""
        ticket = self._reader.ticket(record)
        fault = ticket.fault
        if isinstance(fault, Poison):
            raise fault
        if isinstance(fault, BadRequestError):
            return self._answers.bad_request(fault, self._now_ms())
        work, station = ticket.work, ticket.station
        result = Result(self._now_ms(), error=fault)
        stream = None if self._streaming is None else self._streaming.open(work)
        if fault is None and station is not None:
            try:
                with self._cancellations.heeding(work.request.request_id):
                    await self._call(ticket, station, result, None if stream is None else stream.hear)
            except WorkStoppedError as stopped:
                result.error = cancelled(stopped)
            except BaseException:
                if stream is not None:
                    stream.drop()
                raise
        if stream is not None:
            _end(stream, result)
        if self._instruments is not None and result.charge is not None:
            self._instruments.called(ticket, result)
        if result.output is not None and len(result.output) > INLINE_BYTES_MAX:
            await self._store(work, result, result.output)
        records = self._answers.records(work, station, result)
        if result.error is not None and result.error.code == POISON:
            raise Poison(result.error.message, records)
        return records

    async def _store(self, work: Work[InferenceRequested], result: Result, output: bytes) -> None:
        """A large answer, as embeddings are, travels as a reference."""
        if self._large is None:
            return
        stored = await self._large.stored(work, output)
        if isinstance(stored, WorkError):
            result.output, result.error = None, stored
        else:
            result.output = stored

    async def _call(self, ticket: Ticket, station: Station, result: Result, on_delta: OnDelta | None) -> None:
        """Asks the engine, once it is there; what comes of it is in `result`, also where this is cut off."""
        accepted, work = ticket.accepted, ticket.work
        if images_of(accepted.request):
            loaded = await self._images.loaded(accepted.request)
            if isinstance(loaded, WorkError):
                result.error = loaded
                return
            accepted = accepted._replace(request=loaded)
        if not station.watch.up:
            await station.watch.wait_up((work.deadline_at_ms - self._now_ms()) / 1000)
        await self._generate(ticket, station, accepted, result, on_delta)

    async def _generate(
        self, ticket: Ticket, station: Station, accepted: Accepted, result: Result, on_delta: OnDelta | None
    ) -> None:
        work = ticket.work
        result.started_at_ms = self._now_ms()
        if work.expired(result.started_at_ms):
            result.error = too_late("the deadline had passed before an engine was free")
            return
        clock = asyncio.get_running_loop().time
        stay = Stay(ticket, station, clock())
        try:
            timeout_seconds = (work.deadline_at_ms - result.started_at_ms) / 1000
            result.generation = await station.engine.generate(accepted.request, timeout_seconds, on_delta)
        except EngineFailedError as error:
            self._failed(work.request, station, error)
            result.error, result.usage, result.first_token_ms = error.error, error.usage, error.first_token_ms
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and self._cancellations.told(work.request.request_id):
                result.usage, result.first_token_ms = _spent(error, work.request, station)
                result.charge, result.elapsed_ms = stay.end(clock(), result.usage)
            else:
                stay.abandon(clock())
            raise
        generation = result.generation
        usage = result.usage if generation is None else generation.usage
        result.charge, result.elapsed_ms = stay.end(clock(), usage, generation)
        if generation is not None:
            _take(result, generation, accepted)

    def _failed(self, request: InferenceRequested, station: Station, error: EngineFailedError) -> None:
        if error.error.code in GONE:
            station.watch.suspect()
        _log.warning(Event.CALL_FAILED, request_id=str(request.request_id), run_id=request.run_id, error=str(error))


def _end(stream: AnswerStream, result: Result) -> None:
    """The last piece: after it the text is what the outcome holds, or void."""
    generation, tokens = result.generation, result.usage.output + result.usage.reasoning
    if result.error is not None or generation is None:
        stream.end(None, tokens)
    else:
        stream.end(generation.text, tokens, generation.finish_reason)


def _spent(
    error: asyncio.CancelledError, request: InferenceRequested, station: Station
) -> tuple[TokenUsage, float | None]:
    """What an aborted call had used by then, and when its first token came. Its prompt at least was sent."""
    if isinstance(error, AbortedError):
        return error.usage, error.first_token_ms
    return TokenUsage(input=station.engine.prompt_tokens(request)), None


def _take(result: Result, generation: Generation, accepted: Accepted) -> None:
    """The engine's answer as the result, once it holds what was asked for."""
    request = accepted.request
    result.usage, result.first_token_ms = generation.usage, generation.first_token_ms
    if generation.max_tokens_used is None and accepted.max_tokens_used is not None:
        result.generation = replace(generation, max_tokens_used=accepted.max_tokens_used)
    if request.operation == "embedding":
        answer = structured.embedded(generation.embeddings, request.inputs or [])
    else:
        answer = structured.answered(generation.text, generation.tool_calls, request)
    if isinstance(answer, bytes):
        result.output = answer
    elif generation.finish_reason == "length":
        message = f"the answer was cut at max_tokens={request.max_tokens}; {answer.message}"
        result.error = failed(answer.code, message, answer.next)
    else:
        result.error = answer

"""Owns one model call: from a request's record to its two answers, with every token and engine second paid once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested, NextMove, WorkError
from penstock.runtime.kafka.records import Received
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Answers, Work, failed, read, too_late
from services.inference.answering import CallAnswers, Result
from services.inference.core import structured
from services.inference.engines.protocol import EngineFailedError, Generation
from services.inference.events import Event
from services.inference.station import Station, Stations

_log = logger("caller")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance does: for which pool, and for how many homes."""

    pool: str
    home_partitions: int


class ModelCaller:
    """Calls the engines of this process, each for as many requests at a time as it has places."""

    def __init__(self, stations: Stations, answers: Answers, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._stations: Final = stations
        self._answers: Final = CallAnswers(answers, limits.pool)
        self._limits: Final = limits
        self._now_ms: Final = now_ms

    async def handle(self, record: Received) -> Sequence[Outgoing]:
        """Answers one record. Raises Poison for one that cannot be read."""
        work = read(InferenceRequested, record, self._limits.home_partitions)
        station = self._stations.serving(work.request.model)
        refusal = self._refusal(work.request, station)
        if station is None or refusal is not None:
            return self._answers.records(work, station, Result(self._now_ms(), error=refusal))
        async with station.places:
            await station.watch.wait_up((work.deadline_at_ms - self._now_ms()) / 1000)
            result = await self._called(work, station)
        return self._answers.records(work, station, result)

    def _refusal(self, request: InferenceRequested, station: Station | None) -> WorkError | None:
        """Why this request never reaches the engine, if so."""
        if station is None:
            known = ", ".join(sorted(self._stations.models))
            message = f"pool {self._limits.pool!r} has no model {request.model!r}; it has {known}"
            return failed("unknown_model", message, NextMove.RETRY_ELSEWHERE)
        if request.output_schema is not None:
            try:
                structured.check_schema(request.output_schema)
            except structured.SchemaRefusedError as error:
                return failed("schema_invalid", str(error))
        return None

    async def _called(self, work: Work[InferenceRequested], station: Station) -> Result:
        result = Result(self._now_ms())
        if work.expired(result.started_at_ms):
            result.error = too_late("the deadline had passed before an engine was free")
            return result
        clock = asyncio.get_running_loop().time
        began = clock()
        place = station.meter.begin()
        try:
            timeout_seconds = (work.deadline_at_ms - result.started_at_ms) / 1000
            result.generation = await station.engine.generate(work.request, timeout_seconds)
        except EngineFailedError as error:
            self._failed(work.request, station, error)
            result.error, result.usage, result.first_token_ms = error.error, error.usage, error.first_token_ms
        finally:
            # A cancelled call has cost engine time as well; its redelivery is charged for its own.
            result.charge = station.meter.end(place)
        result.elapsed_ms = (clock() - began) * 1000
        if result.generation is not None:
            _take(result, result.generation, work.request)
        return result

    def _failed(self, request: InferenceRequested, station: Station, error: EngineFailedError) -> None:
        if error.error.code == "engine_unreachable":
            station.watch.suspect()
        _log.warning(Event.CALL_FAILED, request_id=str(request.request_id), run_id=request.run_id, error=str(error))


def _take(result: Result, generation: Generation, request: InferenceRequested) -> None:
    """The engine's answer as the result, once it holds what was asked for."""
    result.usage, result.first_token_ms = generation.usage, generation.first_token_ms
    if request.output_schema is None:
        result.output = orjson.dumps(generation.text)
        return
    checked = structured.checked(generation.text, request.output_schema)
    if isinstance(checked, bytes):
        result.output = checked
    elif generation.finish_reason == "length":
        message = f"the answer was cut at max_tokens={request.max_tokens}; {checked.message}"
        result.error = failed(checked.code, message, checked.next)
    else:
        result.error = checked

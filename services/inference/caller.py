"""Owns one model call: from a request's record to its two answers, with every token and engine second paid once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import orjson

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested, NextMove, TokenUsage, WorkError
from penstock.runtime.kafka.records import Received
from penstock.runtime.telemetry import logger
from penstock.runtime.work import Answers, Outcome, Work, failed, read, too_late
from services.inference.core import pricing, structured
from services.inference.engines.protocol import Engine, EngineFailedError
from services.inference.events import Event
from services.inference.watch import EngineWatch

_log = logger("caller")


@dataclass(frozen=True, slots=True)
class Billing:
    """How this engine's calls are paid: by the token for `models` in the list, or by the hour of `hardware`."""

    prices: pricing.PriceList
    hardware: str | None

    def meter(self) -> pricing.HourlyMeter:
        """What turns engine time into money; without hardware, time costs nothing."""
        per_hour = Decimal(0) if self.hardware is None else self.prices.hardware[self.hardware].price_per_hour
        return pricing.HourlyMeter(per_hour)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one instance does: for which pool, which models, how many calls at a time."""

    pool: str
    models: frozenset[str]
    concurrency: int
    home_partitions: int


@dataclass(slots=True)
class _Result:
    """What a call brought, whether or not it succeeded."""

    output: bytes | None = None
    error: WorkError | None = None
    finish_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    first_token_ms: float | None = None


class ModelCaller:
    """Calls one engine, at most `limits.concurrency` requests at a time; the rest waits before it and in Kafka."""

    def __init__(
        self,
        engine: Engine,
        watch: EngineWatch,
        billing: Billing,
        answers: Answers,
        limits: Limits,
        now_ms: Callable[[], int],
    ) -> None:
        self._engine: Final = engine
        self._watch: Final = watch
        self._billing: Final = billing
        self._meter: Final = billing.meter()
        self._clock: Final = pricing.EngineClock()
        self._answers: Final = answers
        self._limits: Final = limits
        self._places: Final = asyncio.Semaphore(limits.concurrency)
        self._now_ms: Final = now_ms

    async def handle(self, record: Received) -> Sequence[Outgoing]:
        """Answers one record. Raises Poison for one that cannot be read."""
        work = read(InferenceRequested, record, self._limits.home_partitions)
        refusal = self._refusal(work.request)
        if refusal is not None:
            return self._answered(work, self._now_ms(), 0.0, _Result(error=refusal), None)
        async with self._places:
            await self._watch.wait_up((work.deadline_at_ms - self._now_ms()) / 1000)
            started_at_ms = self._now_ms()
            if work.expired(started_at_ms):
                error = too_late("the deadline had passed before an engine was free")
                return self._answered(work, started_at_ms, 0.0, _Result(error=error), None)
            return await self._call(work, started_at_ms)

    def _refusal(self, request: InferenceRequested) -> WorkError | None:
        """Why this request never reaches the engine, if so."""
        if request.model not in self._limits.models:
            known = ", ".join(sorted(self._limits.models))
            message = f"pool {self._limits.pool!r} has no model {request.model!r}; it has {known}"
            return failed("unknown_model", message, NextMove.RETRY_ELSEWHERE)
        if request.output_schema is not None:
            try:
                structured.check_schema(request.output_schema)
            except structured.SchemaRefusedError as error:
                return failed("schema_invalid", str(error))
        return None

    async def _call(self, work: Work[InferenceRequested], started_at_ms: int) -> list[Outgoing]:
        place = object()  # not the request's id: a redelivery may overlap with its forerunner's last moments
        began_ns = _now_ns()
        self._clock.begin(place, began_ns)
        try:
            result = await self._generated(work, (work.deadline_at_ms - started_at_ms) / 1000)
        finally:
            # A cancelled call has cost engine time as well; its redelivery is charged for its own.
            ended_ns = _now_ns()
            amount = self._meter.charge(self._clock.end(place, ended_ns))
        elapsed_ms = (ended_ns - began_ns) / 1e6
        return self._answered(work, started_at_ms, elapsed_ms, result, amount)

    async def _generated(self, work: Work[InferenceRequested], timeout_seconds: float) -> _Result:
        request = work.request
        try:
            generation = await self._engine.generate(request, timeout_seconds)
        except EngineFailedError as error:
            if error.error.code == "engine_unreachable":
                self._watch.suspect()
            _log.warning(Event.CALL_FAILED, request_id=str(request.request_id), run_id=request.run_id, error=str(error))
            return _Result(error=error.error, usage=error.usage, first_token_ms=error.first_token_ms)
        result = _Result(
            finish_reason=generation.finish_reason, usage=generation.usage, first_token_ms=generation.first_token_ms
        )
        if request.output_schema is None:
            result.output = orjson.dumps(generation.text)
            return result
        checked = structured.checked(generation.text, request.output_schema)
        if isinstance(checked, bytes):
            result.output = checked
        elif generation.finish_reason == "length":
            message = f"the answer was cut at max_tokens={request.max_tokens}; {checked.message}"
            result.error = failed(checked.code, message, checked.next)
        else:
            result.error = checked
        return result

    def _answered(
        self,
        work: Work[InferenceRequested],
        started_at_ms: int,
        elapsed_ms: float,
        result: _Result,
        hourly: Decimal | None,
    ) -> list[Outgoing]:
        """The records. `hourly` is None where the engine was never asked."""
        request = work.request
        cost = self._cost(request.model, result.usage, hourly)
        tokens = result.usage.model_dump()
        shared: dict[str, Any] = {
            "pool": self._limits.pool,
            "engine": self._engine.name,
            "simulated": self._engine.simulated,
        }
        completed = {**shared, "model": request.model, "usage": tokens, "cost": cost}
        if result.finish_reason is not None:
            completed["finish_reason"] = result.finish_reason
        outcome = Outcome(
            started_at_ms,
            elapsed_ms,
            output=result.output,
            error=result.error,
            first_token_ms=result.first_token_ms,
            completed=completed,
            usage={**shared, "lane": request.priority.value, "tokens": tokens},
            cost=cost,
        )
        return self._answers.records(work, request.model, outcome)

    def _cost(self, model: str, usage: TokenUsage, hourly: Decimal | None) -> dict[str, str]:
        prices = self._billing.prices
        if hourly is None:
            amount = Decimal(0)
        elif self._billing.hardware is not None:
            amount = hourly
        else:
            amount = pricing.token_cost(prices.models[model], usage)
        return {"amount": format(amount, "f"), "currency": prices.currency, "price_version": prices.version}


def _now_ns() -> int:
    """The loop's monotonic clock in whole nanoseconds."""
    return int(asyncio.get_running_loop().time() * 1e9)

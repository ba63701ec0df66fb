"""Owns what tests of inference share: an engine that says what the test tells it to, a station of it, a request."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ChatMessage, InferenceRequested, Lane, TokenUsage, WorkError
from penstock.contracts.prices import PriceList
from penstock.contracts.topics import INFERENCE_COMPLETED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.health import Health
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.work import Answers
from services.inference.caller import Limits, ModelCaller
from services.inference.core.buckets import estimated_prompt_tokens
from services.inference.core.failures import unreachable
from services.inference.engines.protocol import (
    Delta,
    EngineFailedError,
    EngineLoad,
    Generation,
    ModelLimits,
    OnDelta,
)
from services.inference.metering import Billing, EngineMeter
from services.inference.station import Station, Stations
from services.inference.streaming import Streaming
from services.inference.watch import EngineWatch

AT_MS = 1_795_000_000_000
KEY = run_key("default", "r")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PRICES = PriceList.model_validate(
    {
        "version": "v1",
        "effective": "2026-01-01",
        "models": {"m": {"input_cost_per_token": "0.01", "output_cost_per_token": "0.1"}},
        "hardware": {"cpu": {"price_per_hour": "3600"}},
    }
)


def says(text: str, finish_reason: str = "stop") -> Generation:
    return Generation(text, finish_reason, TokenUsage(input=10, output=2), first_token_ms=1.5)


class ScriptedEngine:
    """Answers with what it is given; a call waits while `held` is not set."""

    name = "scripted"
    simulated = False

    def __init__(self) -> None:
        self.answer: Generation | WorkError = says("hello")
        self.calls: list[InferenceRequested] = []
        self.held = asyncio.Event()
        self.held.set()
        self.deltas: list[Delta] = []
        self.model_limits = ModelLimits()
        self.inside = 0
        self.inside_max = 0
        self.entered = asyncio.Event()
        self.two_inside = asyncio.Event()
        self.reachable = True
        self.found_away = asyncio.Event()

    async def start(self) -> None: ...

    def limits(self, model: str) -> ModelLimits:  # noqa: ARG002 - as engines have it
        return self.model_limits

    def load(self) -> EngineLoad:
        return EngineLoad(running=self.inside)

    def prompt_tokens(self, request: InferenceRequested) -> int:
        return estimated_prompt_tokens(request)

    async def probe(self) -> str:
        if not self.reachable:
            self.found_away.set()
            raise EngineFailedError(unreachable("nobody there"))
        return "here"

    async def generate(
        self,
        request: InferenceRequested,
        timeout_seconds: float,  # noqa: ARG002 - as engines have it
        on_delta: OnDelta | None = None,
    ) -> Generation:
        self.calls.append(request)
        self.inside += 1
        self.entered.set()
        self.inside_max = max(self.inside, self.inside_max)
        if self.inside == 2:
            self.two_inside.set()
        for delta in self.deltas:
            if on_delta is not None:
                on_delta(delta)
        try:
            await self.held.wait()
        finally:
            self.inside -= 1
        if isinstance(self.answer, WorkError):
            raise EngineFailedError(self.answer, TokenUsage(input=7, output=1), 2.0)
        return self.answer

    async def close(self) -> None: ...


def a_station(engine: ScriptedEngine, *, hardware: str | None = "cpu", concurrency: int = 2) -> Station:
    watch = EngineWatch(engine, Health(), outage_wait_seconds=0.0)
    return Station(engine, watch, EngineMeter(engine.name, Billing(PRICES, hardware)), frozenset({"m"}), concurrency)


def a_caller(
    *stations: Station,
    cancellations: Cancellations | None = None,
    streaming: Streaming | None = None,
    blobs: Blobs | None = None,
) -> ModelCaller:
    answers = Answers(Service.INFERENCE, INFERENCE_COMPLETED, "inference", "i-1")
    limits = Limits(pool="small", home_partitions=4)
    told = cancellations or Cancellations()
    large = None if blobs is None else LargeValues(blobs, lambda: AT_MS)
    return ModelCaller(Stations(stations), answers, limits, lambda: AT_MS, told, streaming=streaming, large=large)


def a_request(attempt: int = 1, *, seconds: float = 60.0, **changes: Any) -> InferenceRequested:
    fields: dict[str, Any] = {
        "request_id": request_id(KEY, "s", attempt),
        "tenant": "default",
        "run_key": KEY,
        "run_id": "r",
        "home": 1,
        "workflow": "w",
        "version": "1",
        "step": "s",
        "attempt": attempt,
        "labels": {"team": "a"},
        "deadline": datetime.fromtimestamp(AT_MS / 1000 + seconds, UTC),
        "priority": Lane.BATCH,
        "pool": "small",
        "model": "m",
        "messages": [ChatMessage(role="user", content="hi")],
        "max_tokens": 16,
    }
    return InferenceRequested(**{**fields, **changes})

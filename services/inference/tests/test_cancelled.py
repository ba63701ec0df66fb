"""Tests of model calls that nobody awaits any more: before they reach an engine, and in it."""

import asyncio
from typing import Any

import pytest

from penstock.contracts.messages import InferenceCompleted, InferenceRequested, NextMove, TokenUsage, UsageRecorded
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.testkit.received import Record
from services.inference.caller import ModelCaller
from services.inference.core.catalogue import HARDWARE
from services.inference.core.roofline import Roofline
from services.inference.engines.protocol import AbortedError, Generation, OnDelta
from services.inference.engines.simulated import SimulatedEngine
from services.inference.tests.scripted import AT_MS, ScriptedEngine, a_caller, a_request, a_station

REASON = "its answer is not needed any more"


async def call(caller: ModelCaller, **changes: Any) -> tuple[InferenceCompleted, UsageRecorded]:
    completed, usage = await caller.handle(Record(a_request(**changes).to_json(), timestamp=AT_MS - 5))
    return InferenceCompleted.model_validate_json(completed.value), UsageRecorded.model_validate_json(usage.value)


def assert_cancelled(completed: InferenceCompleted) -> None:
    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("cancelled", NextMove.GIVE_UP)
    assert completed.error.message == f"stopped, because {REASON}"


async def test_a_running_call_is_aborted() -> None:
    # given an engine that holds a call
    engine, cancellations = ScriptedEngine(), Cancellations()
    engine.held.clear()
    running = asyncio.create_task(call(a_caller(a_station(engine), cancellations=cancellations)))
    await engine.entered.wait()

    # when it is not needed any more
    cancellations.tell(a_request().request_id, REASON)
    completed, usage = await running

    # then it is answered, with the engine's time and its prompt on the bill
    assert_cancelled(completed)
    assert usage.status == "failed"
    assert (usage.tokens.input, usage.tokens.output) == (engine.prompt_tokens(a_request()), 0)
    assert usage.gpu_seconds is not None
    assert usage.cost == completed.cost
    assert engine.inside == 0


async def test_a_cancel_that_overtook_its_request_is_heeded() -> None:
    engine, cancellations = ScriptedEngine(), Cancellations()
    cancellations.tell(a_request().request_id, REASON)

    completed, _ = await call(a_caller(a_station(engine), cancellations=cancellations))

    assert_cancelled(completed)
    assert engine.calls == []


async def test_an_engine_that_knows_says_what_an_aborted_call_has_spent() -> None:
    class Counting(ScriptedEngine):
        async def generate(
            self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
        ) -> Generation:
            try:
                return await super().generate(request, timeout_seconds, on_delta)
            except asyncio.CancelledError as error:
                raise AbortedError(TokenUsage(input=10, output=7), 3.0) from error

    engine, cancellations = Counting(), Cancellations()
    engine.held.clear()
    running = asyncio.create_task(call(a_caller(a_station(engine, hardware=None), cancellations=cancellations)))
    await engine.entered.wait()

    cancellations.tell(a_request().request_id, REASON)

    _, usage = await running
    assert usage.tokens == TokenUsage(input=10, output=7)
    assert usage.timing.first_token_ms is not None
    assert usage.cost.amount > 0


async def test_the_simulated_engine_says_what_an_aborted_call_has_spent() -> None:
    engine = SimulatedEngine(Roofline(HARDWARE["h100-sxm"]), batch_max=4)
    running = asyncio.create_task(engine.generate(a_request(max_tokens=4_000), 60.0))
    await asyncio.sleep(0)

    running.cancel()

    with pytest.raises(AbortedError) as aborted:
        await running
    assert aborted.value.usage.input > 0
    assert engine.load().running == 0

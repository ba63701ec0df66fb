"""Tests of one model call, with an engine that says what the test tells it to."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import (
    ChatMessage,
    InferenceCompleted,
    InferenceRequested,
    Lane,
    NextMove,
    TokenUsage,
    UsageRecorded,
    WorkError,
)
from penstock.contracts.topics import INFERENCE_COMPLETED, Service
from penstock.runtime.errors import Poison
from penstock.runtime.health import Health
from penstock.runtime.work import Answers
from penstock.testkit.received import Record
from services.inference.caller import Billing, Limits, ModelCaller
from services.inference.core.failures import unreachable
from services.inference.core.pricing import PriceList
from services.inference.engines.protocol import EngineFailedError, Generation
from services.inference.watch import EngineWatch

SCHEMAS = Path(__file__).parents[3] / "schemas"
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


class Engine:
    """Answers with what it is given; a call waits while `held` is not set."""

    name = "scripted"
    simulated = False

    def __init__(self) -> None:
        self.answer: Generation | WorkError = says("hello")
        self.calls: list[InferenceRequested] = []
        self.held = asyncio.Event()
        self.held.set()
        self.inside = 0
        self.inside_max = 0
        self.two_inside = asyncio.Event()
        self.reachable = True
        self.found_away = asyncio.Event()

    async def probe(self) -> str:
        if not self.reachable:
            self.found_away.set()
            raise EngineFailedError(unreachable("nobody there"))
        return "here"

    async def generate(self, request: InferenceRequested, timeout_seconds: float) -> Generation:  # noqa: ARG002 - as engines have it
        self.calls.append(request)
        self.inside += 1
        self.inside_max = max(self.inside, self.inside_max)
        if self.inside == 2:
            self.two_inside.set()
        await self.held.wait()
        self.inside -= 1
        if isinstance(self.answer, WorkError):
            raise EngineFailedError(self.answer, TokenUsage(input=7, output=1), 2.0)
        return self.answer

    async def close(self) -> None: ...


@pytest.fixture
def engine() -> Engine:
    return Engine()


def a_caller(engine: Engine, *, hardware: str | None = "cpu", concurrency: int = 2) -> tuple[ModelCaller, EngineWatch]:
    watch = EngineWatch(engine, Health(), outage_wait_seconds=0.0)
    answers = Answers(Service.INFERENCE, INFERENCE_COMPLETED, "inference", "i-1")
    limits = Limits(pool="small", models=frozenset({"m"}), concurrency=concurrency, home_partitions=4)
    return ModelCaller(engine, watch, Billing(PRICES, hardware), answers, limits, lambda: AT_MS), watch


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


async def call(caller: ModelCaller, request: InferenceRequested) -> tuple[InferenceCompleted, UsageRecorded]:
    completed, usage = await caller.handle(Record(request.to_json(), timestamp=AT_MS - 5))
    assert completed.partition == 1
    for record in (completed, usage):
        schema = SCHEMAS / record.topic.removesuffix(".v1") / "v1" / "producer.schema.json"
        jsonschema_rs.validate(orjson.loads(schema.read_bytes()), orjson.loads(record.value))
    return InferenceCompleted.model_validate_json(completed.value), UsageRecorded.model_validate_json(usage.value)


async def test_an_answer_goes_home_with_its_usage_and_cost(engine: Engine) -> None:
    completed, usage = await call(a_caller(engine)[0], a_request())

    assert (completed.status, completed.output, completed.finish_reason) == ("succeeded", "hello", "stop")
    assert (completed.pool, completed.model, completed.engine, completed.simulated) == ("small", "m", "scripted", False)
    assert completed.usage == usage.tokens == TokenUsage(input=10, output=2)
    assert completed.timing == usage.timing
    assert completed.timing.queue_ms >= 5
    assert completed.timing.first_token_ms == completed.timing.queue_ms + 1.5
    assert completed.cost == usage.cost
    assert usage.cost.price_version == "v1"
    assert usage.cost.amount > 0
    assert (usage.kind, usage.subject, usage.lane, usage.labels) == ("inference", "m", Lane.BATCH, {"team": "a"})


async def test_an_endpoint_that_is_paid_by_the_token_is_paid_by_the_token(engine: Engine) -> None:
    _, usage = await call(a_caller(engine, hardware=None)[0], a_request())

    assert usage.cost.amount == Decimal("0.3")


async def test_structured_output_is_parsed(engine: Engine) -> None:
    engine.answer = says('{"n": 3}')

    completed, _ = await call(a_caller(engine)[0], a_request(output_schema=SCHEMA))

    assert completed.output == {"n": 3}


@pytest.mark.parametrize(
    ("answer", "message"),
    [(says('{"n": "x"}'), "output.n"), (says('{"n": 1', "length"), "cut at max_tokens=16"), (says("hm"), "not JSON")],
)
async def test_output_that_misses_its_schema_is_paid_for_and_asks_for_a_repair(
    engine: Engine, answer: Generation, message: str
) -> None:
    engine.answer = answer

    completed, usage = await call(a_caller(engine)[0], a_request(output_schema=SCHEMA))

    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("output_invalid", NextMove.REPAIR_OUTPUT)
    assert message in completed.error.message
    assert usage.tokens.output == 2
    assert usage.cost.amount > 0


async def test_a_failed_call_is_recorded_with_what_it_had_spent(engine: Engine) -> None:
    engine.answer = WorkError(code="rate_limited", message="slow down", next=NextMove.RETRY_AFTER, retry_after_ms=900)

    completed, usage = await call(a_caller(engine)[0], a_request())

    assert completed.error == engine.answer
    assert (usage.status, usage.tokens.input, usage.timing.first_token_ms) == ("failed", 7, usage.timing.queue_ms + 2.0)


@pytest.mark.parametrize(
    ("request_made", "code", "next_move"),
    [
        (a_request(seconds=-1), "deadline_exceeded", NextMove.RETRY_ELSEWHERE),
        (a_request(model="other"), "unknown_model", NextMove.RETRY_ELSEWHERE),
        (a_request(output_schema={"type": "wrong"}), "schema_invalid", NextMove.GIVE_UP),
    ],
)
async def test_what_cannot_be_answered_costs_nothing_and_reaches_no_engine(
    engine: Engine, request_made: InferenceRequested, code: str, next_move: NextMove
) -> None:
    completed, usage = await call(a_caller(engine)[0], request_made)

    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == (code, next_move)
    assert engine.calls == []
    assert (usage.tokens, str(usage.cost.amount)) == (TokenUsage(), "0")


async def test_no_more_calls_run_at_a_time_than_there_are_places(engine: Engine) -> None:
    # given an engine that holds its calls
    engine.held.clear()
    caller, _ = a_caller(engine, concurrency=2)
    calls = [asyncio.create_task(call(caller, a_request(attempt))) for attempt in range(1, 6)]
    await engine.two_inside.wait()

    # when it lets them go
    engine.held.set()
    answers = await asyncio.gather(*calls)

    # then there were never more than two, all were answered, and the bill is the time that passed
    assert engine.inside_max == 2
    assert len(engine.calls) == 5
    assert all(completed.status == "succeeded" for completed, _ in answers)


async def test_an_engine_that_went_away_is_waited_for(engine: Engine) -> None:
    # given an engine that was there and is gone
    health = Health()
    watch = EngineWatch(engine, health, outage_wait_seconds=60.0)
    caller = ModelCaller(
        engine,
        watch,
        Billing(PRICES, "cpu"),
        Answers(Service.INFERENCE, INFERENCE_COMPLETED, "inference", "i-1"),
        Limits(pool="small", models=frozenset({"m"}), concurrency=2, home_partitions=4),
        lambda: AT_MS,
    )
    probing = asyncio.create_task(watch.run())
    await watch.wait_first(asyncio.Event())
    engine.reachable, engine.answer = False, unreachable("connection refused")
    completed, _ = await call(caller, a_request(1))
    assert completed.error is not None
    assert completed.error.next is NextMove.RETRY_ELSEWHERE
    await engine.found_away.wait()
    assert not health.ready

    # when the next call comes, and the engine is back a little later
    waiting = asyncio.create_task(call(caller, a_request(2)))
    engine.found_away.clear()
    await engine.found_away.wait()
    assert len(engine.calls) == 1
    engine.reachable, engine.answer = True, says("back")

    # then the call is answered, and was never sent to an engine that was away
    completed, _ = await waiting
    assert completed.output == "back"
    probing.cancel()


async def test_a_record_that_is_no_request_is_poison(engine: Engine) -> None:
    with pytest.raises(Poison):
        await a_caller(engine)[0].handle(Record(b"[]"))

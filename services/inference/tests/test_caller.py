"""Tests of one model call, with an engine that says what the test tells it to."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import jsonschema_rs
import orjson
import pytest

from penstock.contracts.blobs import reference_of
from penstock.contracts.messages import (
    InferenceCompleted,
    InferenceRequested,
    Lane,
    NextMove,
    TokenLogprob,
    TokenUsage,
    ToolCall,
    ToolSignature,
    UsageRecorded,
    WorkError,
)
from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Poison
from penstock.runtime.health import Health
from penstock.testkit.received import Record
from services.inference.caller import ModelCaller
from services.inference.core.failures import unreachable
from services.inference.core.limits import ModelLimits
from services.inference.engines.protocol import Generation
from services.inference.metering import Billing, EngineMeter
from services.inference.station import Station
from services.inference.tests.scripted import (
    AT_MS,
    PRICES,
    SCHEMA,
    ScriptedEngine,
    a_caller,
    a_request,
    a_station,
    says,
)
from services.inference.watch import EngineWatch

SCHEMAS = Path(__file__).parents[3] / "schemas"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


async def call(caller: ModelCaller, request: InferenceRequested) -> tuple[InferenceCompleted, UsageRecorded]:
    completed, usage = await caller.handle(Record(request.to_json(), timestamp=AT_MS - 5))
    assert completed.partition == 1
    for record in (completed, usage):
        schema = SCHEMAS / record.topic.removesuffix(".v1") / "v1" / "producer.schema.json"
        jsonschema_rs.validate(orjson.loads(schema.read_bytes()), orjson.loads(record.value))
    return InferenceCompleted.model_validate_json(completed.value), UsageRecorded.model_validate_json(usage.value)


async def test_an_answer_goes_home_with_its_usage_and_cost(engine: ScriptedEngine) -> None:
    completed, usage = await call(a_caller(a_station(engine)), a_request())

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


async def test_an_endpoint_that_is_paid_by_the_token_is_paid_by_the_token(engine: ScriptedEngine) -> None:
    _, usage = await call(a_caller(a_station(engine, hardware=None)), a_request())

    assert usage.cost.amount == Decimal("0.3")


async def test_structured_output_is_parsed(engine: ScriptedEngine) -> None:
    engine.answer = says('{"n": 3}')

    completed, _ = await call(a_caller(a_station(engine)), a_request(output_schema=SCHEMA))

    assert completed.output == {"n": 3}


@pytest.mark.parametrize(
    ("answer", "message"),
    [(says('{"n": "x"}'), "output.n"), (says('{"n": 1', "length"), "cut at max_tokens=16"), (says("hm"), "not JSON")],
)
async def test_output_that_misses_its_schema_is_paid_for_and_asks_for_a_repair(
    engine: ScriptedEngine, answer: Generation, message: str
) -> None:
    engine.answer = answer

    completed, usage = await call(a_caller(a_station(engine)), a_request(output_schema=SCHEMA))

    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("output_invalid", NextMove.REPAIR_OUTPUT)
    assert message in completed.error.message
    assert usage.tokens.output == 2
    assert usage.cost.amount > 0


async def test_a_failed_call_is_recorded_with_what_it_had_spent(engine: ScriptedEngine) -> None:
    engine.answer = WorkError(code="rate_limited", message="slow down", next=NextMove.RETRY_AFTER, retry_after_ms=900)

    completed, usage = await call(a_caller(a_station(engine)), a_request())

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
    engine: ScriptedEngine, request_made: InferenceRequested, code: str, next_move: NextMove
) -> None:
    completed, usage = await call(a_caller(a_station(engine)), request_made)

    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == (code, next_move)
    assert engine.calls == []
    assert (usage.tokens, str(usage.cost.amount)) == (TokenUsage(), "0")


async def test_tool_calls_and_logprobs_come_with_the_answer(engine: ScriptedEngine) -> None:
    # given a model that asks for a tool, and says how sure it was
    tool = ToolSignature(name="weather", parameters={"type": "object", "required": ["city"]})
    said = ToolCall(id="call-1", name="weather", arguments={"city": "Bern"})
    sure = TokenLogprob(token="hm", logprob=-0.5, top={"hm": -0.5})
    engine.answer = replace(says("", "tool_calls"), tool_calls=(said,), logprobs=(sure,))
    engine.model_limits = ModelLimits(tools=True)

    # then both are in its outcome
    completed, _ = await call(a_caller(a_station(engine)), a_request(tools=[tool]))
    assert (completed.output, completed.tool_calls, completed.logprobs) == ("", [said], [sure])

    # and arguments that miss the tool's schema are not
    engine.answer = replace(engine.answer, tool_calls=(said.model_copy(update={"arguments": {}}),))
    completed, _ = await call(a_caller(a_station(engine)), a_request(tools=[tool]))
    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("tool_arguments_invalid", NextMove.REPAIR_OUTPUT)


async def test_embeddings_are_the_output(engine: ScriptedEngine) -> None:
    engine.answer = replace(says(""), embeddings=((0.5, 1.0), (0.0, 1.5)))
    engine.model_limits = ModelLimits(embeddings=True)

    completed, usage = await call(
        a_caller(a_station(engine)), a_request(operation="embedding", messages=[], inputs=["a", "b"])
    )

    assert completed.output == [[0.5, 1.0], [0.0, 1.5]]
    assert usage.tokens.input == 10


async def test_a_clamped_answer_says_so(engine: ScriptedEngine) -> None:
    engine.model_limits = ModelLimits(11)

    completed, _ = await call(a_caller(a_station(engine)), a_request(on_overflow="clamp"))

    assert completed.max_tokens_used == engine.calls[0].max_tokens == 10


async def test_an_engine_that_went_away_is_waited_for(engine: ScriptedEngine) -> None:
    # given an engine that was there and is gone
    health = Health()
    watch = EngineWatch(engine, health, outage_wait_seconds=60.0)
    caller = a_caller(Station(engine, watch, EngineMeter("e", Billing(PRICES, "cpu")), frozenset({"m"}), 2))
    probing = asyncio.create_task(watch.run())
    await watch.wait_for_ever()
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


async def test_a_record_that_is_no_request_is_poison(engine: ScriptedEngine) -> None:
    with pytest.raises(Poison):
        await a_caller(a_station(engine)).handle(Record(b"[]"))


async def test_what_kills_engines_is_answered_and_becomes_a_dead_letter() -> None:
    engine = ScriptedEngine()
    engine.answer = WorkError(code="poison_request", message="killed two", next=NextMove.GIVE_UP)

    with pytest.raises(Poison, match="killed two") as caught:
        await a_caller(a_station(engine)).handle(Record(a_request().to_json(), timestamp=AT_MS - 5))

    completed, usage = (orjson.loads(record.value) for record in caught.value.answers if record.value)
    assert completed["error"]["code"] == "poison_request"
    assert usage["status"] == "failed"


async def test_a_large_answer_travels_as_a_reference_and_its_usage_as_ever(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    blobs, text = Blobs(tmp_path.as_uri()), "Water runs downhill. " * 5_000
    assert isinstance(engine.answer, Generation)
    engine.answer = replace(engine.answer, text=text)

    completed, usage = await call(a_caller(a_station(engine), blobs=blobs), a_request())

    assert reference_of(completed.output) is not None
    assert await blobs.whole(completed.output, "default") == text
    assert usage.tokens == completed.usage

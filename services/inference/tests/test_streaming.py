"""Tests of answers that are sent while they come, with an engine and a broker that do what the test tells them to."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import jsonschema_rs
import orjson
import pytest

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceCompleted, InferenceStreamed, NextMove, WorkError
from penstock.runtime.errors import NotAcknowledged
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.testkit.received import Record
from services.inference.core.coalesce import Pace
from services.inference.engines.protocol import Delta
from services.inference.streaming import PENDING_BYTES_MAX, Streaming
from services.inference.tests.scripted import AT_MS, SCHEMA, ScriptedEngine, a_caller, a_request, a_station, says
from services.inference.tests.test_caller import SCHEMAS

AT_ONCE = Pace(every_ms=0.0, characters=1)
NEVER_AGAIN = Pace(every_ms=3_600_000.0, characters=1_000_000)


class Wire:
    """A publisher that keeps what it is given, and acknowledges it when it is told to."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.pending_bytes = 0
        self.acknowledges = True
        self.open: list[asyncio.Future[None]] = []

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        self.records += records
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.open.append(sent)
        if self.acknowledges:
            sent.set_result(None)
        return sent

    def pieces(self) -> list[InferenceStreamed]:
        schema = SCHEMAS / "penstock.inference.streamed" / "v1" / "producer.schema.json"
        validator = jsonschema_rs.validator_for(orjson.loads(schema.read_bytes()))
        for record in self.records:
            validator.validate(orjson.loads(record.value))
        return [InferenceStreamed.model_validate_json(record.value) for record in self.records]


async def answered(engine: ScriptedEngine, wire: Wire, pace: Pace = AT_ONCE, **request: Any) -> InferenceCompleted:
    caller = a_caller(a_station(engine), streaming=Streaming(wire, pace, lambda: AT_MS))
    asked = a_request(**{"stream": True, **request})
    completed, _ = await caller.handle(Record(asked.to_json(), timestamp=AT_MS))
    return InferenceCompleted.model_validate_json(completed.value)


@pytest.fixture
def engine() -> ScriptedEngine:
    engine = ScriptedEngine()
    engine.deltas = [Delta("hel", 1), Delta("lo", 2)]
    return engine


@pytest.fixture
def wire() -> Wire:
    return Wire()


def texts(wire: Wire) -> list[str]:
    return [piece.text for piece in wire.pieces()]


async def test_the_first_piece_goes_out_at_once_and_the_last_matches_the_answer(
    engine: ScriptedEngine, wire: Wire
) -> None:
    completed = await answered(engine, wire, NEVER_AGAIN)

    first, last = wire.pieces()
    assert (first.sequence, first.from_character, first.text, first.tokens, first.final) == (0, 0, "hel", 1, False)
    assert (last.sequence, last.from_character, last.text, last.tokens) == (1, 3, "lo", 2)
    assert (last.final, last.status, last.finish_reason) == (True, "succeeded", "stop")
    assert completed.output == "hello"
    assert last.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert {record.key for record in wire.records} == {str(a_request().run_key).encode()}


async def test_a_piece_waits_until_the_one_before_it_has_arrived(engine: ScriptedEngine, wire: Wire) -> None:
    # given a slow broker and an engine that goes on talking
    wire.acknowledges = False
    engine.deltas = [Delta(each, count + 1) for count, each in enumerate("abcdef")]
    engine.answer = says("abcdef!")
    engine.held.clear()
    running = asyncio.create_task(answered(engine, wire))
    await engine.entered.wait()
    assert texts(wire) == ["a"]

    # when the first piece has arrived, then all that came meanwhile is the next
    wire.open[0].set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert texts(wire) == ["a", "bcdef"]

    # and the end waits for nobody
    engine.held.set()
    await running
    assert texts(wire) == ["a", "bcdef", "!"]


async def test_while_much_is_on_its_way_only_the_end_is_sent(engine: ScriptedEngine, wire: Wire) -> None:
    wire.pending_bytes = PENDING_BYTES_MAX

    await answered(engine, wire)

    assert [(piece.text, piece.final) for piece in wire.pieces()] == [("hello", True)]


async def test_what_the_broker_refused_makes_the_pieces_begin_again(engine: ScriptedEngine, wire: Wire) -> None:
    wire.acknowledges = False
    engine.held.clear()
    running = asyncio.create_task(answered(engine, wire, NEVER_AGAIN))
    await engine.entered.wait()
    wire.open[0].set_exception(NotAcknowledged([], "refused", permanent=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    engine.held.set()
    await running

    *_, last = wire.pieces()
    assert (last.sequence, last.from_character, last.text, last.final) == (0, 0, "hello", True)


async def test_a_failed_attempt_ends_its_stream(engine: ScriptedEngine, wire: Wire) -> None:
    engine.answer = WorkError(code="rate_limited", message="slow down", next=NextMove.RETRY_AFTER)

    await answered(engine, wire, NEVER_AGAIN)

    assert [(piece.final, piece.status) for piece in wire.pieces()] == [(False, None), (True, "failed")]


async def test_an_answer_that_misses_its_schema_failed(engine: ScriptedEngine, wire: Wire) -> None:
    await answered(engine, wire, output_schema=SCHEMA)

    assert wire.pieces()[-1].status == "failed"


async def test_what_never_reached_an_engine_ends_as_well(engine: ScriptedEngine, wire: Wire) -> None:
    await answered(engine, wire, seconds=-1)
    await answered(engine, wire, model="other")

    assert [(piece.sequence, piece.status, piece.text) for piece in wire.pieces()] == [(0, "failed", "")] * 2


async def test_a_cancelled_one_ends_too(engine: ScriptedEngine, wire: Wire) -> None:
    cancellations = Cancellations()
    engine.held.clear()
    streaming = Streaming(wire, NEVER_AGAIN, lambda: AT_MS)
    caller = a_caller(a_station(engine), cancellations=cancellations, streaming=streaming)
    asked = a_request(stream=True)
    running = asyncio.create_task(caller.handle(Record(asked.to_json(), timestamp=AT_MS)))
    await engine.entered.wait()

    cancellations.tell(asked.request_id, "not needed")

    await running
    assert [(piece.final, piece.status) for piece in wire.pieces()] == [(False, None), (True, "failed")]


async def test_a_call_that_is_left_to_another_instance_says_no_more(engine: ScriptedEngine, wire: Wire) -> None:
    engine.held.clear()
    running = asyncio.create_task(answered(engine, wire, NEVER_AGAIN))
    await engine.entered.wait()

    running.cancel()

    await asyncio.gather(running, return_exceptions=True)
    assert [piece.final for piece in wire.pieces()] == [False]


async def test_a_redelivered_request_begins_again(engine: ScriptedEngine, wire: Wire) -> None:
    await answered(engine, wire, NEVER_AGAIN)
    await answered(engine, wire, NEVER_AGAIN)

    assert [(piece.sequence, piece.text) for piece in wire.pieces()] == [(0, "hel"), (1, "lo")] * 2


async def test_nothing_is_streamed_that_was_not_asked_for(engine: ScriptedEngine, wire: Wire) -> None:
    await answered(engine, wire, stream=False)

    assert wire.records == []

"""A lane with bad requests among good ones: each gets its answer, none reaches the engine, none holds the lane up."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from penstock.contracts.envelope import Envelope, Outgoing, to_headers
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import Image, InferenceCompleted, UsageRecorded
from penstock.contracts.topics import INFERENCE_COMPLETED, USAGE_RECORDED, Service
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received
from penstock.testkit.log import MemoryLog
from penstock.testkit.world import within
from services.inference.core.limits import ModelLimits
from services.inference.tests.scripted import ScriptedEngine, a_caller, a_request, a_station

REQUESTED = "penstock.inference.small.standard.requested.v1"
DEAD = f"dlq.{REQUESTED}"
LIMITS = ModelLimits(4096, images=True, tools=True)
NO_IMAGE = Image(blob="sha256:" + "0" * 64, bytes=9, media_type="image/png")
BAD: dict[str, dict[str, Any]] = {
    "context_overflow": {"messages": [{"role": "user", "content": "water " * 5000}]},
    "max_tokens_beyond_room": {"max_tokens": 1_000_000},
    "unknown_model": {"model": "nobody"},
    "unknown_adapter": {"adapter": "nobody"},
    "schema_invalid": {"output_schema": {"type": "wrong"}},
    "regex_invalid": {"regex": "("},
    "tool_schema_invalid": {"tools": [{"name": "t", "parameters": {"type": 3}}]},
    "tools_invalid": {"tools": [{"name": "t", "parameters": {}}], "tool_choice": "u"},
    "image_invalid": {"messages": [{"role": "user", "content": "see", "images": [NO_IMAGE.model_dump()]}]},
    "embeddings_unsupported": {"operation": "embedding", "messages": [], "inputs": ["a"]},
}
MALFORMED: dict[str, bytes] = {
    "NaN": b'"temperature":NaN',
    "infinite": b'"temperature":1e999',
    "no such operation": b'"operation":"sing"',
    "two bounds": b'"regex":"a","choices":["b"]',
    "no tools": b'"tools":"all"',
    "tools without a schema": b'"tools":[{"name":"t","parameters":"none"}]',
    "names that are none": b'"tools":[{"name":"not a name","parameters":{}}]',
    "no messages": b'"messages":[]',
    "sampling": b'"sampling":{"top_p":NaN}',
}


def a_record(number: int, **changes: Any) -> bytes:
    key = run_key("default", f"r{number}")
    own: dict[str, Any] = {
        "seconds": 2e9,
        "run_key": key,
        "run_id": f"r{number}",
        "request_id": request_id(key, "s", 1),
        "home": 1,
    }
    body = orjson.loads(a_request(**own).to_json())
    return orjson.dumps({**body, **changes})


def malformed(number: int, fields: bytes) -> bytes:
    """A request with fields that no writer of ours would write; of two of one name readers take the last."""
    return a_record(number)[:-1] + b"," + fields + b"}"


async def test_bad_requests_are_answered_and_good_ones_behind_them_too() -> None:
    # given a lane whose every other record is bad
    engine = ScriptedEngine()
    engine.model_limits = LIMITS
    bad = [a_record(number, **changes) for number, changes in enumerate(BAD.values())]
    bad += [malformed(100 + number, fields) for number, fields in enumerate(MALFORMED.values())]
    log = MemoryLog({REQUESTED: 1, DEAD: 1, INFERENCE_COMPLETED.name: 2, USAGE_RECORDED.name: 1})
    for number, value in enumerate(bad):
        for name, each in ((f"bad{number}", value), (f"good{number}", a_record(1000 + number))):
            headers = to_headers(Envelope(name, "t", "s", "2026-11-21T00:00:00Z"))
            log.append(REQUESTED, key=b"k", value=each, headers=headers, partition=0)
    log.append(REQUESTED, key=b"k", value=b'{"run_id":"\xff"}', headers=[], partition=0)

    # when inference takes from it
    await consumed(log, engine)

    # then every request has one outcome and one usage, and only what is no JSON at all is a dead letter
    completed = {
        each.run_id: each
        for each in (
            InferenceCompleted.model_validate_json(record.value or b"")
            for record in log.records(INFERENCE_COMPLETED.name)
        )
    }
    usages = [UsageRecorded.model_validate_json(record.value or b"") for record in log.records(USAGE_RECORDED.name)]
    assert len(completed) == len(usages) == 2 * len(bad)
    assert [record.value for record in log.records(DEAD)] == [b'{"run_id":"\xff"}']

    # and each bad one has its name, reached no engine and cost nothing
    codes = [failure.code for number in range(len(BAD)) if (failure := completed[f"r{number}"].error) is not None]
    assert codes == list(BAD)
    for number in range(len(MALFORMED)):
        failure = completed[f"r{100 + number}"].error
        assert failure is not None
        assert failure.code == "bad_request"
    assert all(completed[f"r{1000 + number}"].status == "succeeded" for number in range(len(bad)))
    assert {call.run_id for call in engine.calls} == {f"r{1000 + number}" for number in range(len(bad))}
    assert sum(usage.cost.amount > 0 or usage.tokens.input > 0 for usage in usages) == len(bad)


async def consumed(log: MemoryLog, engine: ScriptedEngine) -> None:
    """Runs the consumer until nothing is left on the lane."""
    publisher = Publisher(Service.INFERENCE, log)
    await publisher.start()
    caller, handled, all_handled = a_caller(a_station(engine)), 0, asyncio.Event()

    async def handle(record: Received) -> Sequence[Outgoing]:
        nonlocal handled
        handled += 1
        if handled == len(log.records(REQUESTED)):
            all_handled.set()
        return await caller.handle(record)

    consumer = InFlightConsumer(Service.INFERENCE, [REQUESTED], "g", handle, publisher, log, in_flight_max=4)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    await within(all_handled.wait())
    stop.set()
    await within(running)
    await publisher.stop()


@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
async def test_the_answer_to_a_bad_request_says_where_it_is_wrong(field: str) -> None:
    log = MemoryLog({REQUESTED: 1, DEAD: 1, INFERENCE_COMPLETED.name: 2, USAGE_RECORDED.name: 1})
    log.append(REQUESTED, key=b"k", value=malformed(1, f'"{field}":NaN'.encode()), headers=[], partition=0)
    log.append(REQUESTED, key=b"k", value=b"", headers=[], partition=0)

    await consumed(log, ScriptedEngine())

    (record,) = log.records(INFERENCE_COMPLETED.name)
    completed = InferenceCompleted.model_validate_json(record.value or b"")
    assert completed.error is not None
    assert field in completed.error.message
    assert (record.partition, completed.model, completed.engine) == (1, "m", "none")

"""The door, through its socket: runs start, show, are watched and end; costs, lag and documents are read."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import (
    PricedCost,
    RunFinished,
    RunProgressed,
    RunStart,
    StepChange,
    StepPhase,
    TokenUsage,
    UsageRecorded,
)
from penstock.testkit.builders import a_report
from services.gateway.tests.conftest import Running
from services.gateway.tests.noon import NOON

pytestmark = pytest.mark.stack


@pytest.fixture
async def requests(gateway: Running) -> AsyncIterator[AIOKafkaConsumer]:
    """What comes to the orchestrator from here on."""
    consumer = AIOKafkaConsumer(
        topics.RUN_REQUESTED.name,
        topics.RUN_SIGNALLED.name,
        bootstrap_servers=gateway.settings.kafka_bootstrap_servers,
        enable_auto_commit=False,
    )
    await consumer.start()
    await consumer.seek_to_end()
    yield consumer
    await consumer.stop()


def progressed(run_id: str, sequence: int, status: Any = "running", **fields: Any) -> RunProgressed:
    return RunProgressed(
        run_key=ids.run_key("default", run_id),
        run_id=run_id,
        tenant="default",
        workflow="greet",
        version="1",
        sequence=sequence,
        status=status,
        at=NOON,
        **fields,
    )


def change(phase: StepPhase) -> StepChange:
    return StepChange(step="greeting", kind="model", phase=phase, attempt=1, at=NOON, preview="hello")


def finished(run_id: str) -> RunFinished:
    return RunFinished(
        run_id=run_id,
        workflow="greet",
        version="1",
        tenant="default",
        status="completed",
        output={"text": "hello"},
        started_at=NOON,
        finished_at=NOON,
    )


async def tell_whole_run(gateway: Running, run_id: str) -> None:
    key = ids.run_key("default", run_id)
    start = RunStart(started_at=NOON, input_preview={"name": "Ada"})
    first = progressed(run_id, 1, start=start, changes=[change(StepPhase.WAITING)])
    await gateway.say(topics.RUN_PROGRESSED, first, run_id)
    usage = UsageRecorded(
        request_id=ids.request_id(key, "greeting", 1),
        tenant="default",
        run_key=key,
        run_id=run_id,
        home=0,
        workflow="greet",
        version="1",
        step="greeting",
        attempt=1,
        kind="inference",
        status="succeeded",
        subject="smollm2-135m",
        simulated=True,
        tokens=TokenUsage(input=7, output=3),
        cost=PricedCost(amount=Decimal("0.00000012"), price_version="1"),
        recorded_at=NOON,
    )
    await gateway.say(topics.USAGE_RECORDED, usage, "default")
    last = progressed(run_id, 2, "completed", changes=[change(StepPhase.COMPLETED)])
    await gateway.say(topics.RUN_PROGRESSED, last, run_id)
    await gateway.say(topics.RUN_FINISHED, finished(run_id), run_id)


async def test_a_run_is_accepted_when_the_broker_has_it(gateway: Running, requests: AIOKafkaConsumer) -> None:
    # Given a workflow, when a run of it is asked for
    answer = await gateway.http.post("/v1/runs", json={"workflow": "greet", "input": {"name": "Ada"}})

    # Then it has an id, and the request is on the topic with its envelope
    assert answer.status_code == 202, answer.text
    run_id = answer.json()["run_id"]
    record = await asyncio.wait_for(requests.getone(), 10)
    assert orjson.loads(record.value) | {"input": None} == {
        "workflow": "greet",
        "input": None,
        "run_id": run_id,
        "tenant": "default",
        "labels": {},
        "priority": "standard",
    }
    headers = dict(record.headers)
    assert (headers["ce_source"], headers["ce_tenant"]) == (b"penstock/gateway", b"default")

    # And it can be read before it has started
    read = await gateway.http.get(answer.headers["location"])
    assert read.json()["status"] == "requested"


async def test_an_idempotency_key_is_the_run_id_and_starts_one_run(gateway: Running) -> None:
    # Given a request with a key
    body = {"workflow": "greet", "input": {"name": "Ada"}}
    headers = {"idempotency-key": '"order-4711"'}
    first = await gateway.http.post("/v1/runs", json=body, headers=headers)

    # When it is sent again, and then another with the same key
    again = await gateway.http.post("/v1/runs", json=body, headers=headers)
    other = await gateway.http.post("/v1/runs", json=body | {"priority": "batch"}, headers=headers)

    # Then the first two are one run and the third is refused
    assert (first.json()["run_id"], again.status_code, again.json()) == ("order-4711", 202, first.json())
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_run_id_belongs_to_its_first_request(gateway: Running) -> None:
    # Given a run with an id of its own
    body = {"workflow": "greet", "input": {"name": "Ada"}, "run_id": "taken"}
    await gateway.http.post("/v1/runs", json=body)

    # When another request takes the id
    answer = await gateway.http.post("/v1/runs", json=body | {"input": {"name": "Bob"}})

    # Then it is told so; another tenant may have it
    assert (answer.status_code, answer.json()["code"]) == (409, "run_id_taken")
    assert (await gateway.http.post("/v1/runs?tenant=acme", json=body)).status_code == 202


async def test_a_run_shows_its_steps_usage_and_output(gateway: Running) -> None:
    # Given an id with everything that an address could trip over
    run_id = 'a/b?c#d%2F&"<e>'

    # When the orchestrator tells the whole run
    await tell_whole_run(gateway, run_id)

    # Then it is found under its percent-encoded id
    path = "/v1/runs/a%2Fb%3Fc%23d%252F%26%22%3Ce%3E"
    await gateway.until(path, "status", "completed")
    run = (await gateway.until_holds(path, lambda body: bool(body["steps"] and body["steps"][0]["attempts"]))).json()
    assert run["run_id"] == run_id
    assert run["output"] == {"text": "hello"}
    assert run["input_preview"] == {"name": "Ada"}
    assert run["simulated"] is True
    assert [(step["step"], step["phase"], step["preview"]) for step in run["steps"]] == [
        ("greeting", "completed", "hello")
    ]
    assert run["steps"][0]["attempts"][0]["cost"] == "0.00000012"
    assert run["links"]["run"] == path

    # And the page escapes it
    page = await gateway.http.get("/")
    assert "&lt;e&gt;" in page.text
    assert "<e>" not in page.text
    assert "simulated" in page.text
    assert (await gateway.http.get(path.removeprefix("/v1"))).status_code == 200


async def test_costs_are_grouped_by_what_is_asked_for(gateway: Running) -> None:
    # Given a run of a version of its own
    await tell_whole_run(gateway, "costly")
    period = f"since={NOON:%Y-%m-%dT%H}:00:00Z&until={NOON:%Y-%m-%dT%H}:59:59Z"
    await gateway.until_holds(f"/v1/costs?by=run&{period}", lambda body: "costly" in str(body["lines"]))

    # When costs are read by tenant and workflow, and by run
    by_workflow = (await gateway.http.get(f"/v1/costs?by=tenant,workflow&{period}")).json()
    by_run = (await gateway.http.get(f"/v1/costs?by=run&{period}")).json()

    # Then simulated work is said to be, and money is exact
    line = by_workflow["lines"][0]
    assert (line["tenant"], line["workflow"], line["simulated"]) == ("default", "greet", True)
    assert "costly" in {line["run"] for line in by_run["lines"]}
    assert {line["cost"] for line in by_run["lines"]} == {"0.00000012"}


async def test_costs_come_in_pages_with_waste_runs_and_engine_time(gateway: Running) -> None:
    # Given a run, and a stretch of an engine's time
    await tell_whole_run(gateway, "paged")
    noon = f"{NOON:%Y-%m-%dT%H}"
    until = f"until={noon}:59:59Z"
    path = f"/v1/costs?by=workflow,version,day&since={noon}:00:00Z&{until}&tenant=default&workflow=greet"
    answer = await gateway.until_holds(path, lambda body: any("runs" in line for line in body["lines"]))
    line = next(line for line in answer.json()["lines"] if "runs" in line)
    assert line["wasted"]["total"] == "0"
    assert (line["runs"]["completed"] > 0, line["runs"]["calls_max"]) == (True, 1)

    # When all costs are read a line at a time
    await gateway.until_holds("/v1/costs?by=run", lambda body: "paged" in str(body["lines"]))
    found, cursor = [], ""
    while True:
        page = (await gateway.http.get(f"/v1/costs?by=hour,model,step&limit=1{cursor}")).json()
        found += page["lines"]
        if "next" not in page:
            break
        cursor = f"&cursor={page['next']}"

    # Then they are those of one page, and what makes no report is refused
    whole = (await gateway.http.get("/v1/costs?by=hour,model,step")).json()
    assert found == whole["lines"]
    for wrong in ("by=label:", "by=label:a,label:b", "by=label:a,step", "cursor=x"):
        assert (await gateway.http.get(f"/v1/costs?{wrong}")).status_code == 422
    reconciled = (await gateway.http.get("/v1/costs/reconciled")).json()
    assert reconciled["pools"] == []
    entries = await gateway.http.get(f"/v1/costs/entries?since={noon}:00:00Z&tenant=default")
    assert [list(orjson.loads(text)) for text in entries.text.splitlines()][-2:] == [["usage"], ["end"]]


async def test_runs_are_listed_in_pages(gateway: Running) -> None:
    # Given three labelled runs
    for number in range(3):
        record = progressed(f"page-{number}", 1, labels={"suite": "pages"})
        await gateway.say(topics.RUN_PROGRESSED, record, f"page-{number}")
        await gateway.until(f"/v1/runs/page-{number}", "status", "running")

    # When they are read two at a time
    first = (await gateway.http.get("/v1/runs?limit=2&label=suite=pages&status=running")).json()
    second = (await gateway.http.get(f"/v1/runs?limit=2&label=suite=pages&cursor={first['next']}")).json()

    # Then all are there, once
    found = [run["run_id"] for run in first["runs"] + second["runs"]]
    assert (sorted(found), second["next"]) == ([f"page-{number}" for number in range(3)], None)


async def test_a_signal_goes_where_the_request_went(gateway: Running, requests: AIOKafkaConsumer) -> None:
    # Given a run
    await gateway.http.post("/v1/runs", json={"workflow": "greet", "input": {"name": "Ada"}, "run_id": "stop-me!"})

    # When it is cancelled
    answer = await gateway.http.post("/v1/runs/stop-me!/cancel", json={"reason": "changed my mind"})

    # Then the signal is on the same partition number, under the same key
    assert answer.status_code == 202
    request = await asyncio.wait_for(requests.getone(), 10)
    signal = await asyncio.wait_for(requests.getone(), 10)
    assert (signal.topic, signal.partition, signal.key) == (topics.RUN_SIGNALLED.name, request.partition, request.key)
    assert orjson.loads(signal.value)["kind"] == "cancel"


async def events_of(gateway: Running, path: str, **headers: str) -> list[tuple[str, str | None]]:
    """The events of a stream up to its end: name and id."""
    found: list[tuple[str, str | None]] = []
    identifier = None
    async with gateway.http.stream("GET", path, headers=headers) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                identifier = value
            elif name == "event":
                found.append((value, identifier if value == "progress" else None))
    return found


async def test_events_are_replayed_and_then_live_and_end(gateway: Running) -> None:
    # Given a run that has begun, and somebody who watches it
    await gateway.say(topics.RUN_PROGRESSED, progressed("live", 1), "live")
    await gateway.until("/v1/runs/live", "status", "running")
    watching = asyncio.create_task(events_of(gateway, "/v1/runs/live/events"))

    # When it goes on and ends
    await gateway.say(topics.RUN_PROGRESSED, progressed("live", 2), "live")
    await gateway.say(topics.RUN_PROGRESSED, progressed("live", 3, "completed"), "live")
    await gateway.say(topics.RUN_FINISHED, finished("live"), "live")

    # Then the watcher saw all of it in order, once
    expected = [("progress", "1"), ("progress", "2"), ("progress", "3"), ("finished", None)]
    assert await asyncio.wait_for(watching, 30) == expected

    # And who comes back gets the rest
    rest = await events_of(gateway, "/v1/runs/live/events", **{"last-event-id": "2"})
    assert rest == expected[2:]


async def test_the_end_waits_for_the_progress_before_it(gateway: Running) -> None:
    # Given a run whose end comes before its last progress, and somebody who watches
    await gateway.say(topics.RUN_PROGRESSED, progressed("overtaken", 1), "overtaken")
    await gateway.say(topics.RUN_FINISHED, finished("overtaken"), "overtaken")
    await gateway.until("/v1/runs/overtaken", "status", "completed")
    watching = asyncio.create_task(events_of(gateway, "/v1/runs/overtaken/events"))

    # When the last progress comes
    await gateway.say(topics.RUN_PROGRESSED, progressed("overtaken", 2, "completed"), "overtaken")

    # Then the end is told last
    expected = [("progress", "1"), ("progress", "2"), ("finished", None)]
    assert await asyncio.wait_for(watching, 30) == expected


async def test_a_poison_record_is_dead_lettered_byte_for_byte_and_the_rest_goes_on(gateway: Running) -> None:
    # Given a record that nobody can read, between two that can be
    dead = topics.dead_letter_topic(topics.RUN_PROGRESSED.name)
    consumer = AIOKafkaConsumer(
        dead, bootstrap_servers=gateway.settings.kafka_bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    poison = b'{"run_key": "not a key\xff'

    # When they come
    record = Outgoing(topics.RUN_PROGRESSED.name, b"poisoned", poison, [("x-mine", b"\xff\x00")])
    await gateway.send(topics.RUN_PROGRESSED, record)
    await gateway.say(topics.RUN_PROGRESSED, progressed("after-poison", 1), "poisoned")
    await gateway.until("/v1/runs/after-poison", "status", "running")

    # Then the bytes are on the dead letter topic, with why
    letter = await asyncio.wait_for(consumer.getone(), 20)
    await consumer.stop()
    headers = dict(letter.headers)
    assert (letter.key, letter.value) == (record.key, poison)
    assert headers["x-mine"] == b"\xff\x00"
    assert headers["__dlq.errors.topic"] == topics.RUN_PROGRESSED.name.encode()
    assert b"can't decode byte 0xff" in headers["__dlq.errors.message"]


async def test_lag_is_known_in_records_and_seconds(gateway: Running) -> None:
    # Given a group that has read one record of a topic and not the next
    servers = gateway.settings.kafka_bootstrap_servers
    group = AIOKafkaConsumer(bootstrap_servers=servers, group_id="slow-team", enable_auto_commit=False)
    await group.start()
    for number in range(2):
        record = Outgoing(topics.RUN_FINISHED.name, b"lag", finished(f"lag-{number}").to_json(), [], partition=3)
        await gateway.send(topics.RUN_FINISHED, record)
    place = TopicPartition(topics.RUN_FINISHED.name, 3)
    group.assign([place])
    await group.commit({place: (await group.end_offsets([place]))[place] - 1})
    await group.stop()

    # When lag is asked for until the commit shows
    async with asyncio.timeout(30):
        found: list[dict[str, Any]] = []
        while not found:
            lags = (await gateway.http.get("/v1/lag")).json()["lags"]
            found = [lag for lag in lags if lag["group"] == "slow-team"]
            await asyncio.sleep(0.2)

    # Then it is one record behind, and has been since that record was written
    assert found[0]["records"] == 1
    assert found[0]["partitions"] == {"3": 1}
    assert 0 <= found[0]["seconds"] < 60


async def test_engines_room_is_told_while_their_reports_are_valid(gateway: Running) -> None:
    # Given an engine that has just reported, and one that did so long ago
    now_ms = round(time.time() * 1000)
    await gateway.say(topics.CAPACITY_REPORTED, a_report("i-9/old", at_ms=now_ms - 60_000), "i-9/old")
    report = a_report("i-1/vllm", at_ms=now_ms, kv_tokens_max=1000, kv_tokens_free=250, tokens_per_second_best=None)
    await gateway.say(topics.CAPACITY_REPORTED, report, "i-1/vllm")

    # When room is asked for
    answer = await gateway.until_holds("/v1/capacity", lambda body: bool(body["engines"]))

    # Then the one is told, without what it does not know, and the page shows it
    (line,) = answer.json()["engines"]
    assert (line["engine"], line["pool"], line["models"], line["health"]) == ("i-1/vllm", "small", ["first"], "up")
    assert (line["kv_tokens_free"], "tokens_per_second_best" in line) == (250, False)
    assert "i-1/vllm" in (await gateway.http.get("/")).text


async def test_the_documents_are_served(gateway: Running) -> None:
    # Given a gateway, when its documents are asked for
    openapi = (await gateway.http.get("/openapi.json")).json()
    asyncapi = (await gateway.http.get("/asyncapi.json")).json()

    # Then they tell of both sides
    assert "application/problem+json" in openapi["paths"]["/v1/runs"]["post"]["responses"]["422"]["content"]
    assert asyncapi["asyncapi"].startswith("3.")
    assert any(topics.RUN_PROGRESSED.name in channel["address"] for channel in asyncapi["channels"].values())

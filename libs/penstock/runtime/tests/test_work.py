"""Tests of reading requests and writing their answers; the message models are the judge."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.envelope import Envelope, Headers, decode, to_headers
from penstock.contracts.ids import event_id, request_id, run_key
from penstock.contracts.messages import (
    ChatMessage,
    InferenceRequested,
    NextMove,
    TaskCompleted,
    TaskRequested,
    UsageRecorded,
    WorkError,
    WorkRequested,
)
from penstock.contracts.topics import INFERENCE_COMPLETED, TASK_COMPLETED, USAGE_RECORDED, Service
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.records import identity
from penstock.runtime.work import (
    NO_COST,
    OUTPUT_BYTES_MAX,
    Answers,
    BadRequestError,
    Outcome,
    failed,
    read,
    request_identity,
)
from penstock.testkit.received import Record

SCHEMAS = Path(__file__).parents[4] / "schemas"
AT_MS = 1_795_000_000_123
KEY = run_key("default", "order-1")
ANSWERS = Answers(Service.WORKER, TASK_COMPLETED, "task", "worker-1")


def a_request(**changes: Any) -> TaskRequested:
    given_fields: dict[str, Any] = {
        "request_id": request_id(KEY, "a/b", 1),
        "tenant": "default",
        "run_key": KEY,
        "run_id": "order-1",
        "home": 3,
        "workflow": "w",
        "version": "1",
        "step": "a/b",
        "attempt": 1,
        "labels": {"team": "blau-grün"},
        "deadline": datetime.fromtimestamp(AT_MS / 1000 + 60, UTC),
        "queue": "default",
        "task": "t",
        "input": {"a": None},
    }
    return TaskRequested(**{**given_fields, **changes})


def a_model_request() -> InferenceRequested:
    shared = a_request().model_dump(exclude={"queue", "task", "input"})
    messages = [ChatMessage(role="user", content="hello")]
    return InferenceRequested(
        **{**shared, "priority": "batch"}, pool="small", model="t", messages=messages, max_tokens=9
    )


def a_record(value: bytes | None, headers: Headers | None = None) -> Record:
    return Record(value, headers or [], partition=1, offset=42, timestamp=AT_MS)


def headers(**changes: Any) -> Headers:
    return to_headers(Envelope("cause-1", "t", "s", "2026-11-21T00:00:00Z", traceparent="00-1-2-01", **changes))


def test_a_request_is_read_with_its_cause_and_trace() -> None:
    work = read(TaskRequested, a_record(a_request().to_json(), headers()), home_partitions=4)

    assert work.request == a_request()
    assert (work.cause, work.traceparent, work.requested_at_ms) == (b"cause-1", b"00-1-2-01", AT_MS)
    assert not work.expired(AT_MS + 59_999)
    assert work.expired(AT_MS + 60_000)


def test_a_request_without_headers_is_read_and_its_position_is_the_cause() -> None:
    work = read(TaskRequested, a_record(a_request().to_json()), home_partitions=4)

    assert work.cause == b"penstock.task.default.requested.v1/1/42"


def test_a_structured_event_is_read() -> None:
    event = {"specversion": "1.0", "id": "e-1", "source": "s", "type": "t", "data": orjson.loads(a_request().to_json())}
    record = a_record(orjson.dumps(event), [("content-type", b"application/cloudevents+json")])

    work = read(TaskRequested, record, home_partitions=4)

    assert (work.request, work.cause) == (a_request(), b"e-1")


def test_somebody_elses_header_is_no_reason_to_refuse() -> None:
    record = a_record(a_request().to_json(), [*headers(), ("x-other", b"\xff\xfe")])

    assert read(TaskRequested, record, home_partitions=4).cause == b"cause-1"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (a_record(None), "no value"),
        (a_record(b"{"), "Invalid JSON"),
        (a_record(b'{"home": 1}'), "request_id: Field required"),
        (a_record(a_request().to_json(), [("ce_id", b"\xff")]), "not UTF-8"),
        (a_record(a_request(home=4).to_json()), "home 4 is not one of 4 partitions"),
        (a_record(a_request(home=-1).to_json()), "home -1"),
    ],
)
def test_what_nobody_could_read_or_answer_is_poison(record: Record, reason: str) -> None:
    with pytest.raises(Poison, match=reason):
        read(TaskRequested, record, home_partitions=4)


def answer(outcome: Outcome, **changes: Any) -> tuple[TaskCompleted, UsageRecorded]:
    work = read(TaskRequested, a_record(a_request(**changes).to_json(), headers()), home_partitions=4)
    completed, usage = ANSWERS.records(work, "t", outcome)
    return TaskCompleted.model_validate_json(completed.value), UsageRecorded.model_validate_json(usage.value)


def test_the_answers_are_what_the_models_would_write() -> None:
    outcome = Outcome(AT_MS + 7, 12.3456, output=b'{"n":null}', completed={"task": "t"})

    completed, usage = answer(outcome)

    expected = a_request()
    attribution = {name: getattr(expected, name) for name in ("request_id", "run_key", "home", "step", "labels")}
    assert {name: getattr(completed, name) for name in attribution} == attribution
    assert {name: getattr(usage, name) for name in attribution} == attribution
    assert (completed.status, completed.output, completed.error) == ("succeeded", {"n": None}, None)
    assert (completed.executor, completed.task) == ("worker-1", "t")
    assert (usage.timing.queue_ms, usage.timing.total_ms, int(usage.cost.amount)) == (7.0, 19.346, 0)
    # and not a byte that the models do not know
    work = read(TaskRequested, a_record(expected.to_json(), headers()), home_partitions=4)
    records = ANSWERS.records(work, "t", outcome)
    assert set(orjson.loads(records[0].value)) <= set(TaskCompleted.model_fields)
    assert set(orjson.loads(records[1].value)) <= set(UsageRecorded.model_fields)


@pytest.mark.parametrize("error", [None, failed("tool_failed", "no", NextMove.RETRY_AFTER, 5)])
def test_the_answers_keep_to_the_closed_schemas_of_their_topics(error: WorkError | None) -> None:
    work = read(TaskRequested, a_record(a_request().to_json(), headers()), home_partitions=4)

    records = ANSWERS.records(work, "t", Outcome(AT_MS, 1.0, output=b"[1]", error=error, completed={"task": "t"}))

    for record in records:
        folder = SCHEMAS / record.topic.removesuffix(".v1") / "v1"
        jsonschema_rs.validate(orjson.loads((folder / "producer.schema.json").read_bytes()), orjson.loads(record.value))


def test_the_outcome_goes_home_and_the_headers_say_why_it_exists() -> None:
    work = read(TaskRequested, a_record(a_request().to_json(), headers()), home_partitions=4)

    completed, usage = ANSWERS.records(work, "t", Outcome(AT_MS, 0.0, output=b"1", completed={"task": "t"}))

    assert (completed.topic, completed.partition) == (TASK_COMPLETED.name, 3)
    assert (usage.topic, usage.partition, usage.key) == (USAGE_RECORDED.name, None, b"default")
    for record, topic in ((completed, TASK_COMPLETED), (usage, USAGE_RECORDED)):
        envelope, _ = decode(record.topic, 0, 0, 0, record.headers, record.value)
        assert envelope.id == event_id(work.request.request_id, topic.event_type)
        assert envelope == Envelope(
            id=envelope.id,
            type=topic.event_type,
            source="penstock/worker",
            time="2026-11-18T11:06:40.123Z",
            tenant="default",
            correlation_id="order-1",
            causation_id="cause-1",
            traceparent="00-1-2-01",
        )


def test_a_failure_carries_its_code_and_no_output() -> None:
    error = failed("tool_failed", "x" * 5000, NextMove.RETRY_AFTER, 1500)

    completed, usage = answer(Outcome(AT_MS, 1.0, error=error, completed={"task": "t"}))

    assert (completed.status, usage.status) == ("failed", "failed")
    assert completed.error is not None
    assert (completed.error.code, completed.error.retry_after_ms) == ("tool_failed", 1500)
    assert len(completed.error.message) == 2000


def test_an_output_over_the_limit_is_a_failure_that_names_the_limit() -> None:
    outcome = Outcome(AT_MS, 1.0, output=b'"' + b"x" * OUTPUT_BYTES_MAX + b'"', completed={"task": "t"})

    completed, _ = answer(outcome)

    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("value_too_large", NextMove.GIVE_UP)
    assert str(OUTPUT_BYTES_MAX) in completed.error.message


@given(tenant=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True), labels=st.dictionaries(st.text(), st.text()))
def test_whoever_the_work_is_for_the_answers_can_be_read(tenant: str, labels: dict[str, str]) -> None:
    completed, usage = answer(Outcome(AT_MS, 0.0, completed={"task": "t"}), tenant=tenant, labels=labels)

    assert (completed.tenant, usage.tenant) == (tenant, tenant)
    assert completed.labels == usage.labels == labels
    assert completed.output is None


@given(st.uuids(), st.text())
def test_event_ids_are_version_five_uuids(cause: UUID, name: str) -> None:
    assert event_id(cause, name) == str(uuid5(cause, name))


@pytest.mark.parametrize("kind", ["task", "inference"])
def test_usage_that_a_crash_left_out_is_told_from_the_request_and_its_outcome(kind: str) -> None:
    extra: dict[str, Any]
    usage_extra: dict[str, Any]
    if kind == "task":
        answers, extra, usage_extra = ANSWERS, {"task": "t"}, {}
        request: WorkRequested = a_request()
    else:
        answers = Answers(Service.INFERENCE, INFERENCE_COMPLETED, "inference", "inference-1")
        request = a_model_request()
        shared = {"pool": "small", "engine": "e", "simulated": True}
        tokens = {"input": 3, "cached_input": 0, "output": 2, "reasoning": 0}
        share = {
            "gpu_seconds": "0.250000001",
            "gpu_type": "h200-sxm",
            "energy_joules": "12.5",
            "engine_session": str(KEY),
            "adapter": "legal",
        }
        extra = {**shared, **share, "model": "t", "usage": tokens, "cost": dict(NO_COST, amount="0.25")}
        usage_extra = {**shared, **share, "lane": "batch", "tokens": tokens}
    requested = a_record(request.to_json(), headers())
    work = read(type(request), requested, home_partitions=4)
    outcome = Outcome(AT_MS + 50, 7.0, output=b"1", completed=extra, usage=usage_extra, cost=extra.get("cost", NO_COST))
    completed, usage = answers.records(work, "t", outcome)

    (again,) = answers.usage_again(requested, a_record(completed.value))

    assert UsageRecorded.model_validate_json(again.value) == UsageRecorded.model_validate_json(usage.value)
    assert (again.topic, again.key, sorted(again.headers)) == (usage.topic, usage.key, sorted(usage.headers))


def test_a_stranger_among_the_outcomes_says_nothing_about_usage() -> None:
    with pytest.raises(ValueError, match="not an outcome"):
        ANSWERS.usage_again(a_record(a_request().to_json(), headers()), a_record(b"{}"))


def test_what_is_asked_wrongly_is_answered_to_the_run_that_asks() -> None:
    """Guard: a run whose request cannot be read fails at once, and does not wait for its deadline."""
    body = orjson.loads(a_request().to_json())
    for wrong in ({"task": 7}, {"task": None}, {"queue": ["x" * 9]}):
        with pytest.raises(BadRequestError) as caught:
            read(TaskRequested, a_record(orjson.dumps({**body, **wrong}), headers()), home_partitions=4)

        completed, usage = ANSWERS.bad_request(caught.value, AT_MS)
        outcome = TaskCompleted.model_validate_json(completed.value)
        assert (outcome.run_id, outcome.request_id, completed.partition) == ("order-1", a_request().request_id, 3)
        assert outcome.error is not None
        assert (outcome.error.code, outcome.error.next) == ("bad_request", NextMove.GIVE_UP)
        assert next(iter(wrong)) in outcome.error.message
        assert UsageRecorded.model_validate_json(usage.value).cost.amount == 0


@pytest.mark.parametrize("wrong", [{"run_key": "none"}, {"home": 4}, {"deadline": "soon"}, {"request_id": None}])
def test_what_nobody_can_be_answered_is_poison_even_where_more_is_wrong(wrong: dict[str, Any]) -> None:
    body = orjson.dumps({**orjson.loads(a_request().to_json()), "task": 7, **wrong})

    with pytest.raises(Poison):
        read(TaskRequested, a_record(body), home_partitions=4)


def test_a_request_is_known_by_its_own_id_whatever_event_carries_it() -> None:
    request_id = UUID(int=7)
    body = b'{"request_id":"%s"}' % str(request_id).encode()
    ours = [("ce_id", str(request_id).encode()), ("ce_source", b"penstock/orchestrator")]
    foreign = [("ce_id", b"another"), ("ce_source", b"somebody")]

    known = {request_identity(Record(body, headers=headers)) for headers in (ours, foreign, [])}

    assert known == {f"request {request_id}"}
    assert request_identity(Record(b"{}", headers=foreign)) == identity(Record(b"{}", headers=foreign))
    assert request_identity(Record(None)) == identity(Record(None))

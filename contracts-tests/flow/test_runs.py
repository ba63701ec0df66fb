"""Owns the promises to upstream and downstream: what goes in as design §4 says comes out as it says."""

from collections import Counter
from datetime import datetime
from typing import Any

import orjson
import pytest

from penstock.contracts import ids
from penstock.contracts.messages import UsageRecorded
from penstock.contracts.topics import RUN_FINISHED, RUN_PROGRESSED, USAGE_RECORDED
from penstock.testkit.downstream import headers_of
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TIERS = {"tier": [{"pool": "small", "model": "smollm2-135m"}]}
VERDICT = {
    "type": "object",
    "properties": {"kind": {"enum": ["long", "short"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


def review() -> Definition:
    """A chain of a task, a model call, a route on what the model said, and a map over the input's parts."""
    chosen = counted_step("short_way", input={"value": "{{ judge.kind }}", "milliseconds": 0})
    part = counted_step("part", input={"value": "{{ item }}", "milliseconds": 0})
    return Definition.model_validate(
        {
            "name": "review",
            "version": "7",
            "input": {
                "type": "object",
                "required": ["ledger", "parts"],
                "properties": {
                    "ledger": {"type": "string"},
                    "parts": {"type": "array", "items": {"type": "integer"}},
                },
            },
            "tiers": TIERS,
            "do": {
                "id": "main",
                "chain": [
                    counted_step("read", input={"value": "{{ input.parts }}", "milliseconds": 0}),
                    {"id": "judge", "model": "tier", "prompt": "Judge {{ run.id }}.", "output_schema": VERDICT},
                    {"id": "way", "route": [{"case": "short", "when": "judge.kind == 'short'", "do": chosen}]},
                    {"id": "each", "parallel": {"map": "read.value", "max_concurrency": 2, "do": part}},
                ],
                "output": {
                    "kind": "{{ judge.kind }}",
                    "way": "{{ way.value if way else none }}",
                    "parts": "{{ each | map(attribute='value') | list }}",
                },
            },
        }
    )


@pytest.fixture(scope="module")
async def reviewed(flow: Traffic) -> Traffic:
    """The workflow `review` is published."""
    await flow.upstream.publish(review())
    return flow


def given(flow: Traffic, *parts: int) -> dict[str, Any]:
    return {"ledger": str(flow.ledger), "parts": list(parts)}


def body_of(flow: Traffic, run_id: str) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(flow.downstream.ends(run_id)[-1].value)
    return body


async def test_a_plain_producer_without_headers_gets_its_result_in_the_agreed_form(reviewed: Traffic) -> None:
    # given a system that knows the topic and the JSON, when it asks without a key and without headers
    reviewed.engine.answer("Judge order-4711", '{"kind": "short"}')
    await reviewed.upstream.request(
        "review@7", given(reviewed, 3, 1, 2), run_id="order-4711", labels={"team": "blau-grün"}
    )
    ends = await reviewed.downstream.finished(["order-4711"])

    # then its run.finished has just the agreed fields, and every block has done its part
    assert ends["order-4711"].status == "completed", ends["order-4711"].error
    body = body_of(reviewed, "order-4711")
    began, ended = body.pop("started_at"), body.pop("finished_at")
    cost = body["usage"].pop("cost")
    assert body == {
        "run_id": "order-4711",
        "workflow": "review",
        "version": "7",
        "tenant": "default",
        "labels": {"team": "blau-grün"},
        "status": "completed",
        "output": {"kind": "short", "way": "short", "parts": [3, 1, 2]},
        "usage": {"model_calls": 1, "input_tokens": 12, "output_tokens": 5},
    }
    assert began.endswith("Z")
    assert ended.endswith("Z")
    assert datetime.fromisoformat(began) <= datetime.fromisoformat(ended)
    assert set(cost) == {"amount", "currency"}
    assert isinstance(cost["amount"], str)


async def test_every_request_ends_in_one_usage_record(reviewed: Traffic) -> None:
    # given a run of six steps that reach an executor
    reviewed.engine.answer("Judge usage-1", '{"kind": "short"}')
    await reviewed.upstream.request("review", given(reviewed, 1, 2, 3), run_id="usage-1", labels={"team": "a"})
    await reviewed.downstream.finished(["usage-1"])

    # when downstream reads all usage, then each request id is there once, attributed
    records = await reviewed.downstream.hear(USAGE_RECORDED.name, 6, b'"usage-1"')
    await reviewed.downstream.caught_up()
    usages = [UsageRecorded.model_validate_json(each.value) for each in records]
    assert Counter(usage.step for usage in usages) == Counter(
        ["main/read", "main/judge", "main/way/short_way", *(f"main/each[{n}]/part" for n in range(3))]
    )
    assert len({usage.request_id for usage in usages}) == 6
    assert {(usage.tenant, usage.run_id, usage.workflow, usage.version) for usage in usages} == {
        ("default", "usage-1", "review", "7")
    }
    assert {usage.labels["team"] for usage in usages} == {"a"}


async def test_a_result_carries_cloudevents_and_goes_on_with_the_callers_trace(reviewed: Traffic) -> None:
    # given a caller with a trace of its own
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    reviewed.engine.answer("Judge traced-1", '{"kind": "long"}')
    await reviewed.upstream.request(
        "review",
        given(reviewed),
        run_id="traced-1",
        headers=[
            ("ce_id", b"evt-1"),
            ("ce_source", b"shop"),
            ("ce_tenant", b"acme"),
            ("traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode()),
        ],
    )

    # when its run ends
    ends = await reviewed.downstream.finished(["traced-1"])

    # then the result's headers say whose it is, what it is and which trace it belongs to
    headers = headers_of(reviewed.downstream.ends("traced-1")[-1])
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_type"] == RUN_FINISHED.event_type
    assert headers["ce_source"] == "penstock/orchestrator"
    assert (headers["ce_tenant"], headers["ce_correlationid"]) == ("acme", "traced-1")
    assert headers["content-type"] == "application/json"
    assert headers["traceparent"].split("-")[1] == trace
    assert headers["ce_id"]
    assert datetime.fromisoformat(headers["ce_time"]).tzinfo is not None
    assert ends["traced-1"].tenant == "acme"


async def test_a_structured_event_without_a_run_id_gets_one_from_its_own_id(reviewed: Traffic) -> None:
    # given a structured-mode CloudEvent whose data names no run
    run_id = ids.run_id_from_event("crm", "evt-77")
    reviewed.engine.answer(f"Judge {run_id}", '{"kind": "long"}')
    event = {
        "specversion": "1.0",
        "id": "evt-77",
        "source": "crm",
        "type": "penstock.run.requested.v1",
        "tenant": "blue-river",
        "data": {"workflow": "review", "input": given(reviewed, 5)},
    }
    headers = [("content-type", b"application/cloudevents+json; charset=utf-8")]
    for _ in range(2):  # published twice: one run
        await reviewed.upstream.say("penstock.run.requested.v1", orjson.dumps(event), headers=headers)

    # then it is served under the id that follows from the event's
    ends = await reviewed.downstream.finished([run_id])
    assert (ends[run_id].status, ends[run_id].tenant) == ("completed", "blue-river")
    assert ends[run_id].output == {"kind": "long", "way": None, "parts": [5]}


async def test_a_definition_that_comes_late_serves_the_runs_after_it(flow: Traffic) -> None:
    # given a request for a workflow that nobody has published
    late = Definition.model_validate({"name": "late", "version": "1", "do": counted_step("only")})
    await flow.upstream.request("late", given(flow), run_id="too-early")
    ends = await flow.downstream.finished(["too-early"])
    assert ends["too-early"].error is not None
    assert ends["too-early"].error.code == "unknown_workflow"

    # when it is published and asked for at once, then it is known
    await flow.upstream.publish(late)
    await flow.upstream.request("late", given(flow), run_id="in-time")
    assert (await flow.downstream.finished(["in-time"]))["in-time"].status == "completed"

    # and the run that came too early begins by a redrive, pinned to it
    await flow.upstream.signal("too-early", "redrive")
    ended = flow.downstream.ends
    await flow.downstream.until(lambda: len(ended("too-early")) == 2, lambda: "the redriven run has not ended")
    end = (await flow.downstream.finished(["too-early"]))["too-early"]
    assert (end.status, end.version) == ("completed", "1")


async def test_a_run_can_be_cancelled_from_any_partition(flow: Traffic) -> None:
    # given a run whose only step waits
    gate = flow.ledger.with_suffix(".gate")
    waiting = counted_step("wait", input={"gate": str(gate), "milliseconds": 0})
    await flow.upstream.publish(Definition.model_validate({"name": "waiting", "version": "1", "do": waiting}))
    await flow.upstream.request("waiting", given(flow), run_id="stop-me", partition=1)
    await flow.downstream.hear(RUN_PROGRESSED.name, 1, b'"stop-me"')

    # when it is cancelled by a signal that lands away from its home
    await flow.upstream.signal("stop-me", "cancel", partition=2, reason="no longer needed")

    # then it ends as cancelled and says why, and the step's late answer changes nothing
    end = (await flow.downstream.finished(["stop-me"]))["stop-me"]
    assert end.status == "cancelled"
    assert end.error is not None
    assert "no longer needed" in end.error.message
    gate.touch()
    await flow.answered(["stop-me"], 1)
    await flow.upstream.request("waiting", given(flow), run_id="behind", partition=1)
    await flow.downstream.finished(["behind"])
    await flow.downstream.caught_up()
    assert len(flow.downstream.ends("stop-me")) == 1

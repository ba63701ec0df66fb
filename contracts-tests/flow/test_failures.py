"""Owns the promises about what goes wrong: retries, timeouts, repairs, refusals with a code, dead letters."""

from typing import Any

import pytest

from penstock.contracts.topics import RUN_REQUESTED
from penstock.testkit.traffic import Traffic, counted_step
from penstock.workflow.definition import Definition

pytestmark = [pytest.mark.stack, pytest.mark.slow]

QUICK = {"attempts": 3, "initial_ms": 1, "max_ms": 50}
VERDICT = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}


def one_step(name: str, **fields: Any) -> Definition:
    """A workflow of one counted task."""
    schema = {"type": "object", "required": ["ledger"], "properties": {"ledger": {"type": "string"}}}
    return Definition.model_validate(
        {"name": name, "version": "1", "input": schema, "do": counted_step("only", retry=QUICK, **fields)}
    )


async def the_end(flow: Traffic, run_id: str, workflow: str, given: Any = None, **fields: Any) -> Any:
    """Ask for a run and wait for its end."""
    given = {"ledger": str(flow.ledger)} if given is None else given
    await flow.upstream.request(workflow, given, run_id=run_id, **fields)
    return (await flow.downstream.finished([run_id]))[run_id]


async def test_a_task_that_fails_is_tried_again(flow: Traffic) -> None:
    # given a task whose first two attempts fail, when it runs, then the third one's output counts
    await flow.upstream.publish(one_step("shaky", input={"fail_before": 3, "milliseconds": 0}))
    end = await the_end(flow, "shaky-1", "shaky")
    assert (end.status, end.output["attempt"]) == ("completed", 3)
    assert len(set(flow.executions().begun["shaky-1 only"])) == 3


async def test_a_task_that_keeps_failing_fails_its_run(flow: Traffic) -> None:
    # given a task that never succeeds, when its attempts are used up, then the run's end names the step
    await flow.upstream.publish(one_step("broken", input={"fail_before": 99, "milliseconds": 0}))
    end = await the_end(flow, "broken-1", "broken")
    assert (end.status, end.error.code, end.error.step) == ("failed", "task_failed", "only")
    assert "attempt 3 of 3" in end.error.message
    assert len(flow.executions().begun["broken-1 only"]) == 3


async def test_a_task_that_hangs_is_given_up_on_and_tried_again(flow: Traffic) -> None:
    # given a task whose first attempt hangs, when its time is over, then the second attempt's output counts
    await flow.upstream.publish(one_step("hanging", timeout_seconds=0.5, input={"hang_before": 2, "milliseconds": 0}))
    end = await the_end(flow, "hanging-1", "hanging")
    assert (end.status, end.output["attempt"]) == ("completed", 2)


async def test_a_models_output_that_misses_its_schema_is_repaired_then_asked_for_elsewhere(flow: Traffic) -> None:
    # given a tier of two routes, and a first model that answers wrongly once in one run and always in another
    routes = [{"pool": "small", "model": "smollm2-135m"}, {"pool": "small", "model": "second"}]
    step = {"id": "judge", "model": "tier", "prompt": "Classify {{ run.id }}.", "output_schema": VERDICT}
    await flow.upstream.publish(
        Definition.model_validate({"name": "classify", "version": "1", "tiers": {"tier": routes}, "do": step})
    )
    flow.engine.answer("Classify repaired", '{"kind": "c"}', '{"kind": "a"}')
    flow.engine.answer("Classify elsewhere", "no JSON", '{"kind": 3}', '{"kind": "b"}')

    # when both run
    repaired, elsewhere = await the_end(flow, "repaired", "classify"), await the_end(flow, "elsewhere", "classify")

    # then the one is put right by the same model, which was told what was wrong; the other by the next model
    assert (repaired.status, repaired.output) == ("completed", {"kind": "a"})
    first, second = flow.engine.calls_about("Classify repaired")
    assert (first.model, second.model) == ("smollm2-135m", "smollm2-135m")
    assert len(second.conversation) > len(first.conversation)
    assert (elsewhere.status, elsewhere.output) == ("completed", {"kind": "b"})
    calls = flow.engine.calls_about("Classify elsewhere")
    assert [call.model for call in calls] == ["smollm2-135m", "smollm2-135m", "second"]
    assert elsewhere.usage.model_calls == 3


@pytest.mark.parametrize(
    ("run_id", "request_fields", "code", "said"),
    [
        ("bad-workflow", {"workflow": "nobody-has-this"}, "unknown_workflow", "nobody-has-this"),
        ("bad-version", {"workflow": "plain@9"}, "unknown_workflow", "plain@9"),
        ("bad-input", {"given": {"ledger": 7}}, "invalid_input", "ledger"),
        ("bad-tenant", {"tenant": "nobody"}, "unknown_tenant", "nobody"),
        ("bad-deadline", {"deadline": "yesterday"}, "invalid_request", "deadline"),
        ("bad-labels", {"labels": {"": "x"}}, "invalid_request", "labels"),
    ],
)
async def test_what_cannot_be_served_but_names_its_run_fails_with_a_code(
    flow: Traffic, run_id: str, request_fields: dict[str, Any], code: str, said: str
) -> None:
    # given a request with one fault, when it is published, then its run ends as failed and says what is wrong
    await flow.upstream.publish(one_step("plain"))
    end = await the_end(flow, run_id, request_fields.pop("workflow", "plain"), **request_fields)
    assert (end.status, end.error.code) == ("failed", code)
    assert said in end.error.message
    assert end.usage.model_calls == 0


@pytest.mark.parametrize(
    ("name", "value", "headers"),
    [
        ("not JSON", b'{"workflow": "plain", ', []),
        ("no object", b"[1, 2]", []),
        ("no workflow and no run", b'{"input": {}}', []),
        ("a header that is not text", b'{"workflow": "plain"}', [("ce_id", b"\xff\xfe"), ("x-odd", b"\x80")]),
        ("no tenant's name", b'{"workflow": "plain"}', [("ce_tenant", b"No Tenant")]),
        ("a structured event that is none", b"[]", [("content-type", b"application/cloudevents+json")]),
        ("nothing", None, []),
    ],
)
async def test_what_names_no_run_is_dead_lettered_byte_for_byte(
    flow: Traffic, name: str, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    # given a record that nobody can answer, and a good one behind it
    await flow.upstream.publish(one_step("plain"))
    key = name.encode() + b"\xfe"
    offset = await flow.upstream.say(RUN_REQUESTED.name, value, key=key, headers=headers, partition=3)
    end = await the_end(flow, f"behind {name}", "plain", partition=3)

    # then it lies in the dead letter topic as it came, with the place it came from, and the good one is served
    (letter,) = await flow.downstream.dead_letters(RUN_REQUESTED.name, 1, key=key)
    assert letter.value == value
    assert list(letter.headers[: len(headers)]) == headers
    said = dict(letter.headers[len(headers) :])
    assert (said["__dlq.errors.partition"], said["__dlq.errors.offset"]) == (b"3", str(offset).encode())
    assert said["__dlq.errors.topic"] == RUN_REQUESTED.name.encode()
    assert said["__dlq.errors.group"] == b"penstock.orchestrator"
    assert said["__dlq.errors.message"]
    assert end.status == "completed"

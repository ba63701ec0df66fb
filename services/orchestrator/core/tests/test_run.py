"""Owns the examples of a run as a whole: how it begins, what it may spend, how it ends and goes on."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.messages import Budget, Failure, Money, NextMove, RunRequested, StepPhase
from penstock.testkit.builders import (
    BEGINNING,
    BEGINNING_MS,
    a_chain,
    a_definition,
    a_model,
    a_run,
    a_task,
    tokens,
)
from penstock.workflow.definition import Definition
from services.orchestrator.core.decide import CorruptRunError, restore
from services.orchestrator.core.program import compile_definition
from services.orchestrator.core.starting import reject, start
from services.orchestrator.core.state import Decision
from services.orchestrator.core.tests.conversation import KEY, Conversation
from services.orchestrator.core.values import VALUE_BYTES_MAX

OBJECT = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"type": "string"}}},
    "required": ["names"],
}


def started(request: RunRequested, definition: Any = None) -> Decision:
    """What a request leads to; no definition means that nobody knows the workflow."""
    return start(
        request,
        key=KEY,
        tenant="default",
        run_id="run-1",
        home=0,
        program=None if definition is None else compile_definition(definition, "1"),
        at_ms=BEGINNING_MS,
        traceparent=None,
    )


@pytest.mark.parametrize(("asked", "version"), [("nothing", ""), ("nothing@7", "7")])
def test_an_unknown_workflow_is_a_failed_run(asked: str, version: str) -> None:
    decision = started(a_run(asked, input={"big": 2**70}))

    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.code == "unknown_workflow"
    assert f"`{asked}`" in decision.finished.error.message
    assert (decision.run.workflow, decision.run.version) == ("nothing", version)
    assert decision.run_changed
    assert decision.alarm_at_ms is None


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"names": ["a", 1]}, "invalid_input", "$.names[1]: 1 is not of type"),
        ({}, "invalid_input", '$: "names" is a required property'),
        ({"names": [], "n": 2**70}, "invalid_input", "not portable JSON"),
        ({"names": ["x" * VALUE_BYTES_MAX]}, "value_too_large", "a run may take 524288"),
    ],
)
def test_an_input_that_is_refused_is_a_failed_run_that_says_where(given: Any, code: str, says: str) -> None:
    decision = started(a_run(input=given), a_definition(input=OBJECT))

    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.code == code
    assert says in decision.finished.error.message
    assert decision.requests == []


def test_a_start_tells_the_read_side_once() -> None:
    decision = started(a_run(input={"names": ["a"]}, priority="interactive"), a_definition(input=OBJECT))

    assert decision.run_changed
    assert decision.start is not None
    assert decision.start.input_preview == {"names": ["a"]}
    assert decision.start.priority.value == "interactive"
    assert [change["phase"] for change in decision.changes] == [StepPhase.WAITING]


def test_the_earlier_of_both_deadlines_holds() -> None:
    near = started(a_run(deadline=BEGINNING + timedelta(seconds=5)), a_definition())
    far = started(a_run(deadline=BEGINNING + timedelta(days=900)), a_definition())

    assert near.run.deadline_at_ms == BEGINNING_MS + 5_000
    assert near.requests[0].deadline == BEGINNING + timedelta(seconds=5)
    assert far.run.deadline_at_ms == BEGINNING_MS + 3_600_000


def test_a_deadline_that_has_passed_asks_for_nothing() -> None:
    decision = started(a_run(deadline=BEGINNING - timedelta(seconds=5)), a_definition())

    assert decision.requests == []
    assert decision.finished is not None
    assert decision.finished.error is not None
    assert decision.finished.error.code == "deadline_exceeded"


def test_at_its_deadline_a_run_fails_and_awaits_nothing() -> None:
    talk = Conversation(a_chain(a_task("one", timeout_seconds=60), a_task("two")), deadline_seconds=10)
    assert talk.last.alarm_at_ms == BEGINNING_MS + 10_000

    finished = talk.ring().finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "deadline_exceeded"
    assert talk.run.steps["main/one"].phase is StepPhase.CANCELLED
    assert talk.succeed("main/one").empty


def test_past_the_deadline_an_answer_is_taken_but_nothing_more_asked_for() -> None:
    """Guard: the alarm may come late."""
    talk = Conversation(a_chain(a_task("one"), a_task("two")), deadline_seconds=10)
    talk.now_ms += 10_000

    finished = talk.succeed("main/one", 1).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "deadline_exceeded"
    assert talk.run.steps["main/one"].output == 1


def test_a_cancelled_run_awaits_nothing() -> None:
    talk = Conversation(a_chain(a_task("one"), a_task("two")))

    decision = talk.cancel("wrong file")

    assert decision.finished is not None
    assert decision.finished.error is not None
    assert (decision.finished.status, decision.finished.error.message) == ("cancelled", "wrong file")
    assert decision.alarm_at_ms is None
    assert talk.succeed("main/one").empty
    assert talk.cancel().empty
    assert talk.redrive().empty


def test_usage_is_the_sum_over_all_attempts_that_answered() -> None:
    talk = Conversation(a_chain(a_model("one"), a_model("two")))
    talk.fail("main/one", NextMove.RETRY_ELSEWHERE, **tokens(10, 5, "0.5"))
    talk.succeed("main/one", "yes", attempt=2, **tokens(20, 6, "0.25"))

    finished = talk.succeed("main/two", "no").finished

    assert finished is not None
    assert finished.usage.model_dump(mode="json") == {
        "model_calls": 3,
        "input_tokens": 30,
        "output_tokens": 11,
        "cost": {"amount": "0.75", "currency": "USD"},
    }
    assert (talk.run.steps["main/one"].model_calls, talk.run.steps["main/one"].input_tokens) == (2, 30)


def test_costs_in_two_currencies_are_not_added() -> None:
    talk = Conversation(a_chain(a_model("one"), a_model("two"), a_task("three")))
    talk.succeed("main/one", "yes", **tokens(cost="1", currency="USD"))

    finished = talk.succeed("main/two", "yes", **tokens(cost="1", currency="EUR")).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("currency_mixed", "main/two")


def test_a_run_asks_for_no_more_attempts_than_its_workflow_allows() -> None:
    talk = Conversation({"id": "docs", "parallel": {"map": "range(9)", "do": a_task("read")}}, steps_max=4)

    assert talk.asked() == []
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("steps_exceeded", "docs[4]/read")


def test_redrive_resumes_at_the_failed_step_with_every_result_kept() -> None:
    talk = Conversation(
        a_chain(a_task("one"), a_model("two", retry={"attempts": 2}), a_task("three", input="{{ one }}{{ two }}"))
    )
    talk.succeed("main/one", "kept")
    talk.fail("main/two", NextMove.RETRY_ELSEWHERE)
    talk.fail("main/two", NextMove.RETRY_ELSEWHERE, attempt=2)
    assert talk.run.status == "failed"

    decision = talk.redrive()

    assert talk.asked() == ["main/two#3"]
    assert talk.model_call().model == "first"
    assert decision.alarm_at_ms is not None
    assert (talk.run.status, talk.run.error, talk.run.finished_at_ms, talk.run.redrives) == ("running", None, None, 1)
    talk.fail("main/two", NextMove.RETRY_ELSEWHERE, attempt=3)
    assert talk.asked() == ["main/two#4"]
    talk.succeed("main/two", "!", attempt=4)
    assert talk.inputs()[0] == "kept!"


def test_redrive_begins_cancelled_siblings_again() -> None:
    talk = Conversation({"id": "all", "parallel": {"sections": [a_task("one"), a_task("two"), a_task("three")]}})
    talk.succeed("all/one", 1)
    talk.fail("all/two")

    talk.redrive()

    assert sorted(talk.asked()) == ["all/three#2", "all/two#2"]
    talk.succeed("all/three", 3, attempt=2)
    finished = talk.succeed("all/two", 2, attempt=2).finished
    assert finished is not None
    assert finished.output == {"one": 1, "two": 2, "three": 3}


def test_redrive_leaves_what_a_best_effort_made_do_with() -> None:
    effort = {"id": "all", "parallel": {"sections": [a_task("x"), a_task("y")], "join": "best_effort"}}
    talk = Conversation(a_chain(effort, a_task("last", input="{{ all }}")))
    talk.fail("main/all/x")
    talk.succeed("main/all/y", 1)
    talk.fail("main/last")

    talk.redrive()

    assert talk.asked() == ["main/last#2"]
    assert talk.inputs()[0]["x"]["error"]["code"] == "broken"


def test_redrive_after_the_deadline_gives_the_run_its_time_again() -> None:
    talk = Conversation(a_task("one"), deadline_seconds=10)
    talk.ring()
    talk.now_ms += 5_000

    decision = talk.redrive()

    assert talk.asked() == ["one#2"]
    assert talk.run.deadline_at_ms == talk.now_ms + 10_000
    assert decision.run_changed


def test_redrive_of_an_unknown_workflow_begins_once_it_is_published() -> None:
    run = started(a_run("example@1")).run
    talk = Conversation(a_task("work"))
    talk.last = Decision(run)
    talk.requests.clear()

    decision = talk.redrive()

    assert [request.step for request in decision.requests] == ["work"]
    assert decision.requests[0].attempt == 1
    assert run.version == "1"


def test_a_run_that_begins_late_keeps_to_its_workflows_budget() -> None:
    # given a run that asked for more than the workflow, unknown by then, allows
    run = started(a_run("example", budget=Budget(model_calls=9, tokens=7_000))).run
    body = {"name": "example", "do": a_chain(a_model("one"), a_model("two")), "budget": {"model_calls": 1}}
    definition = Definition.model_validate({**body, "tiers": {"small": [{"pool": "small", "model": "first"}]}})
    talk = Conversation(definition)
    talk.last = Decision(run)
    talk.requests.clear()

    # when it is redriven, and its first call is answered
    talk.redrive()
    talk.succeed("main/one", "yes")

    # then the next one has no room, in this process as in one that loaded its rows
    assert run.error is not None
    assert run.error.code == "budget_exceeded"
    assert "the cap of model calls is 1" in run.error.message


def test_a_run_that_begins_late_in_another_currency_fails_again() -> None:
    run = started(a_run("example", budget=Budget(cost=Money(amount=Decimal(1), currency="EUR")))).run
    body = {"name": "example", "do": a_task("work"), "budget": {"cost": {"amount": 2}}}
    talk = Conversation(Definition.model_validate(body))
    talk.last = Decision(run)
    talk.requests.clear()

    talk.redrive()

    assert run.error is not None
    assert run.error.code == "currency_mixed"


def test_redrive_of_a_run_that_goes_on_or_completed_changes_nothing() -> None:
    talk = Conversation(a_task("one"))
    assert talk.redrive().empty
    assert talk.last.alarm_at_ms is not None
    talk.succeed("one")
    assert talk.redrive().empty


def test_an_output_that_is_too_large_to_say_fails_the_run() -> None:
    half = "x" * (VALUE_BYTES_MAX // 2)
    talk = Conversation(a_chain(a_task("one"), output="{{ one }}{{ one }}"))

    finished = talk.succeed("main/one", half).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "value_too_large"


def test_rows_that_no_events_lead_to_are_not_guessed_at() -> None:
    talk = Conversation(a_chain(a_task("one"), a_task("two")))
    del talk.run.steps["main/one"]

    with pytest.raises(CorruptRunError):
        restore(talk.run, talk.program)


def test_a_rejected_request_is_a_failed_run_that_nobody_redrives() -> None:
    """Guard: nothing of such a request is kept, so a redrive would begin a run that nobody asked for."""
    failure = Failure(code="unknown_tenant", message="there is no tenant x")
    talk = Conversation(a_task("work"))

    talk.last = reject(a_run("example@1"), failure, key=KEY, tenant="x", run_id="run-1", home=0, at_ms=BEGINNING_MS)

    assert talk.last.finished is not None
    assert talk.last.finished.error == failure
    assert talk.redrive().empty


def test_only_what_rejects_a_request_does() -> None:
    with pytest.raises(ValueError, match="does not reject"):
        reject(a_run(), Failure(code="x", message=""), key=KEY, tenant="x", run_id="r", home=0, at_ms=BEGINNING_MS)

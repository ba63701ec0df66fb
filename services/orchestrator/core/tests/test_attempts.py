"""Owns the examples of attempts: retries, fallbacks, repairs, timeouts, outputs that are refused."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from penstock.contracts.messages import InferenceRequested, NextMove, StepPhase
from penstock.testkit.builders import BEGINNING, BEGINNING_MS, a_model, a_task
from penstock.workflow.parts import Retry
from services.orchestrator.core.attempts import backoff_ms
from services.orchestrator.core.routing import REFUSED_ALIKE
from services.orchestrator.core.tests.conversation import Conversation, only_money
from services.orchestrator.core.values import MESSAGE_CHARACTERS_MAX, VALUE_BYTES_MAX

SCHEMA = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}


def routes(talk: Conversation) -> list[str]:
    """Where the last decision's model calls go."""
    return [request.model for request in talk.last.requests if isinstance(request, InferenceRequested)]


def test_retry_after_waits_as_long_as_it_was_told() -> None:
    talk = Conversation(a_task("work"))

    decision = talk.fail("work", NextMove.RETRY_AFTER, retry_after_ms=1_500)
    assert talk.asked() == []
    assert decision.alarm_at_ms == BEGINNING_MS + 1_500
    assert talk.run.steps["work"].phase is StepPhase.RETRYING

    assert talk.ring(BEGINNING_MS + 1_499).empty
    talk.ring(BEGINNING_MS + 1_500)
    assert talk.asked() == ["work#2"]


def test_retry_after_backs_off_with_full_jitter() -> None:
    talk = Conversation(a_task("work", retry={"initial_ms": 1_000}))

    decision = talk.fail("work", NextMove.RETRY_AFTER)

    assert decision.alarm_at_ms is not None
    assert BEGINNING_MS < decision.alarm_at_ms <= BEGINNING_MS + 1_000


def test_back_off_doubles_up_to_its_maximum_and_depends_on_the_id_alone() -> None:
    retry = Retry(initial_ms=100, max_ms=1_000)
    ids = [UUID(int=number * 7919) for number in range(0, 1 << 36, 1 << 26)]
    waits = [[backoff_ms(retry, attempt, request_id) for request_id in ids] for attempt in (2, 3, 4, 9)]

    assert [max(wait) for wait in waits] <= [100, 200, 400, 1_000]
    for wait, ceiling in zip(waits, (100, 200, 400, 1_000), strict=True):
        assert min(wait) < ceiling * 0.05
        assert max(wait) > ceiling * 0.95
    assert backoff_ms(retry, 20, UUID(int=5)) == backoff_ms(retry, 20, UUID(int=5))


def test_a_told_wait_is_bounded_by_the_deadline() -> None:
    talk = Conversation(a_task("work"), deadline_seconds=10)

    talk.fail("work", NextMove.RETRY_AFTER, retry_after_ms=10**30)

    assert talk.run.steps["work"].due_at_ms == BEGINNING_MS + 10_000


def test_elsewhere_is_the_next_route_at_once_then_the_last_one_after_a_while() -> None:
    talk = Conversation(a_model("say"))
    assert routes(talk) == ["first"]

    talk.fail("say", NextMove.RETRY_ELSEWHERE)
    assert (talk.asked(), routes(talk)) == (["say#2"], ["second"])
    assert talk.model_call().pool == "burst"
    assert [change["phase"].value for change in talk.last.changes] == ["retrying", "waiting"]
    assert [change["route"] for change in talk.last.changes] == ["small/first", "burst/second"]

    talk.fail("say", NextMove.RETRY_ELSEWHERE, attempt=2)
    assert talk.asked() == []
    talk.ring()
    assert (talk.asked(), routes(talk)) == (["say#3"], ["second"])


def test_attempts_are_bounded_over_all_routes() -> None:
    talk = Conversation(a_model("say", retry={"attempts": 2}))
    talk.fail("say", NextMove.RETRY_ELSEWHERE)

    finished = talk.fail("say", NextMove.RETRY_ELSEWHERE, attempt=2, code="overloaded", message="busy").finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.message) == ("overloaded", "busy (attempt 2 of 2)")


@pytest.mark.parametrize("code", sorted(REFUSED_ALIKE))
def test_what_the_last_route_would_refuse_again_ends_the_step_at_once(code: str) -> None:
    # given a call that the first route's model does not take, and the second one's neither
    talk = Conversation(a_model("say"))
    talk.fail("say", NextMove.RETRY_ELSEWHERE, code=code)
    assert routes(talk) == ["second"]

    # when there is no further route
    finished = talk.fail("say", NextMove.RETRY_ELSEWHERE, attempt=2, code=code, message="too long").finished

    # then it is not asked again, and keeps its code
    assert finished is not None
    assert finished.error is not None
    text = "too long (attempt 2 of 3; the tier has no further route, and here it fails alike)"
    assert (finished.error.code, finished.error.message) == (code, text)


@pytest.mark.parametrize(
    ("step", "move", "code"),
    [
        (a_model("work"), NextMove.RETRY_ELSEWHERE, "content_filtered"),
        (a_model("work"), NextMove.RETRY_AFTER, "context_overflow"),
        (a_task("work"), NextMove.RETRY_ELSEWHERE, "context_overflow"),
    ],
    ids=["another draw may pass", "who refused says when", "a task's own code"],
)
def test_what_may_go_better_is_asked_again(step: dict[str, Any], move: NextMove, code: str) -> None:
    talk = Conversation(step, tiers={"small": [{"pool": "small", "model": "only"}]})

    talk.fail("work", move, code=code)
    talk.ring()

    assert talk.asked() == ["work#2"]


def test_give_up_is_the_end_whatever_attempts_are_left() -> None:
    talk = Conversation(a_model("say"))

    assert talk.fail("say", NextMove.GIVE_UP).finished is not None


def test_an_output_that_misses_its_schema_is_repaired_once_then_asked_for_elsewhere() -> None:
    talk = Conversation(a_model("say", output_schema=SCHEMA, retry={"attempts": 4}))

    talk.succeed("say", {"kin": 1})
    assert (talk.asked(), routes(talk)) == (["say#2"], ["first"])
    assert [message.role for message in talk.model_call().messages] == ["user", "user"]
    correction = talk.model_call().messages[1].content
    assert 'the output misses its schema at $: "kind" is a required property' in correction

    talk.succeed("say", {"kind": 1}, attempt=2)
    assert (talk.asked(), routes(talk)) == (["say#3"], ["second"])
    assert len(talk.model_call().messages) == 1

    talk.succeed("say", "no", attempt=3)
    assert (talk.asked(), routes(talk)) == (["say#4"], ["second"])

    finished = talk.succeed("say", "no", attempt=4).finished
    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "output_invalid"
    assert '$: "no" is not of type "object" (attempt 4 of 4)' in finished.error.message


def test_an_output_that_fits_its_schema_is_taken() -> None:
    talk = Conversation(a_model("say", output_schema=SCHEMA))

    finished = talk.succeed("say", {"kind": "mit", "more": None}).finished

    assert finished is not None
    assert finished.output == {"kind": "mit", "more": None}


@pytest.mark.parametrize(
    ("output", "code"),
    [(2**70, "output_invalid"), ("x" * VALUE_BYTES_MAX, "value_too_large")],
)
def test_an_output_that_nobody_can_hold_is_refused(output: Any, code: str) -> None:
    talk = Conversation(a_task("work", retry={"attempts": 1}))

    finished = talk.succeed("work", output).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == code


def test_a_number_that_json_does_not_have_is_null_in_memory_as_in_the_row() -> None:
    talk = Conversation(a_task("work"))

    finished = talk.succeed("work", [float("nan"), 1.0]).finished

    assert finished is not None
    assert finished.output == [None, 1.0]


def test_a_request_that_is_too_large_fails_its_step() -> None:
    for step in (
        a_task("work", input="{{ input.text }}{{ input.text }}"),
        a_model("work", prompt="{{ input.text }}{{ input.text }}"),
    ):
        talk = Conversation(step, {"text": "ü" * (VALUE_BYTES_MAX // 4 + 1)})

        assert talk.asked() == []
        assert talk.run.error is not None
        assert (talk.run.error.code, talk.run.error.step) == ("value_too_large", "work")


def test_a_timeout_asks_elsewhere_and_nobody_awaits_the_late_answer() -> None:
    talk = Conversation(a_model("say", timeout_seconds=2))
    assert talk.last.alarm_at_ms == BEGINNING_MS + 2_000

    assert talk.ring(BEGINNING_MS + 1_999).empty
    talk.ring(BEGINNING_MS + 2_000)
    assert (talk.asked(), routes(talk)) == (["say#2"], ["second"])
    assert talk.last.changes[0]["error"].code == "timeout"
    assert talk.last.changes[0]["error"].message == "no answer within 2 s, the step's timeout_seconds"

    assert only_money(talk.succeed("say", "late"))
    assert talk.last.alarm_at_ms == BEGINNING_MS + 4_000
    assert talk.succeed("say", "in time", attempt=2).finished is not None


def test_a_step_that_only_times_out_ends() -> None:
    talk = Conversation(a_task("work", timeout_seconds=1))
    while talk.run.status == "running":
        talk.ring()

    assert talk.run.steps["work"].attempt == 3
    assert talk.run.error is not None
    assert talk.run.error.code == "timeout"


def test_several_leaves_that_are_due_together_are_all_served() -> None:
    sections = {"id": "all", "parallel": {"sections": [a_task("one"), a_task("two"), a_task("three")]}}
    talk = Conversation(sections)
    for name in ("one", "two", "three"):
        talk.fail(f"all/{name}", NextMove.RETRY_AFTER, retry_after_ms=100)

    talk.ring(BEGINNING_MS + 100)

    assert sorted(talk.asked()) == ["all/one#2", "all/three#2", "all/two#2"]


def test_what_an_executor_says_about_a_failure_is_kept_short() -> None:
    talk = Conversation(a_task("work"))

    finished = talk.fail("work", message="x" * 100_000).finished

    assert finished is not None
    assert finished.error is not None
    assert len(finished.error.message) == MESSAGE_CHARACTERS_MAX + 1


@pytest.mark.parametrize("move", [NextMove.RETRY_AFTER, NextMove.RETRY_ELSEWHERE, NextMove.REPAIR_OUTPUT])
def test_what_retry_does_not_list_ends_the_step(move: NextMove) -> None:
    others = [each.value for each in NextMove if each not in (move, NextMove.GIVE_UP)]
    talk = Conversation(a_model("say", retry={"on": others}))

    finished = talk.fail("say", move, code="busy", message="come later").finished

    assert talk.asked() == []
    assert finished is not None
    assert finished.error is not None
    text = f"come later (attempt 1 of 3; the step's retry.on does not list {move.value})"
    assert (finished.error.code, finished.error.message) == ("busy", text)


@pytest.mark.parametrize("move", [NextMove.RETRY_AFTER, NextMove.RETRY_ELSEWHERE, NextMove.REPAIR_OUTPUT])
def test_what_retry_lists_is_tried_again(move: NextMove) -> None:
    talk = Conversation(a_model("say", retry={"on": [move.value]}))

    talk.fail("say", move)
    if talk.asked() == []:
        talk.ring()

    assert talk.asked() == ["say#2"]


def test_a_request_carries_the_earliest_of_all_deadlines() -> None:
    """Guard: past it nobody awaits the answer, and the executor stops."""
    attempt = Conversation(a_task("work", timeout_seconds=2, step_timeout_seconds=3), deadline_seconds=4)
    step = Conversation(a_task("work", timeout_seconds=3, step_timeout_seconds=2), deadline_seconds=4)
    run = Conversation(a_task("work", timeout_seconds=4, step_timeout_seconds=3), deadline_seconds=2)

    for talk in (attempt, step, run):
        assert talk.last.requests[0].deadline == BEGINNING + timedelta(seconds=2)
        assert talk.last.alarm_at_ms == BEGINNING_MS + 2_000


def test_a_step_ends_when_the_time_for_all_its_attempts_is_over() -> None:
    talk = Conversation(a_task("work", timeout_seconds=10, step_timeout_seconds=15))
    talk.now_ms += 9_000
    talk.fail("work", NextMove.RETRY_AFTER, retry_after_ms=1_000, code="busy", message="come later")
    talk.ring()
    assert talk.asked() == ["work#2"]
    assert talk.last.requests[0].deadline == BEGINNING + timedelta(seconds=15)

    finished = talk.ring(BEGINNING_MS + 15_000).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "step_timeout"
    assert "not over within 15 s, its step_timeout_seconds, at attempt 2 of 3" in finished.error.message
    assert "raise step_timeout_seconds of the step `work`" in finished.error.message
    assert finished.error.message.endswith("The attempt before: busy: come later")


def test_a_wait_that_the_step_has_no_time_for_is_not_begun() -> None:
    talk = Conversation(a_task("work", timeout_seconds=10, step_timeout_seconds=15))

    finished = talk.fail(
        "work", NextMove.RETRY_AFTER, retry_after_ms=15_000, code="busy", message="come later"
    ).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "step_timeout"
    assert "busy: come later" in finished.error.message


def test_a_redriven_step_has_its_time_again() -> None:
    talk = Conversation(a_task("work", timeout_seconds=10, step_timeout_seconds=5, retry={"attempts": 1}))
    talk.ring()
    assert talk.run.status == "failed"
    talk.now_ms += 60_000

    talk.redrive()

    assert talk.asked() == ["work#2"]
    assert talk.last.alarm_at_ms == talk.now_ms + 5_000


def test_an_invalid_output_that_the_executor_saw_goes_back_to_the_model_with_its_words_then_elsewhere() -> None:
    talk = Conversation(a_model("say"))

    talk.fail("say", NextMove.REPAIR_OUTPUT, code="output_invalid", message="output.kind: 1 is not a string")
    assert (talk.asked(), routes(talk)) == (["say#2"], ["first"])
    assert "output.kind: 1 is not a string" in talk.model_call().messages[-1].content

    talk.fail("say", NextMove.REPAIR_OUTPUT, attempt=2, code="output_invalid", message="again")
    assert (talk.asked(), routes(talk)) == (["say#3"], ["second"])
    assert len(talk.model_call().messages) == 1


def test_examples_stand_between_system_and_prompt() -> None:
    examples = [{"user": "Greet {{ input }}.", "assistant": "Hello, {{ input }}."}, {"user": "a", "assistant": "b"}]
    talk = Conversation(a_model("greet", system="Be kind.", examples=examples, prompt="Now {{ input }}."), given="Ada")

    assert [(message.role, message.content) for message in talk.model_call().messages] == [
        ("system", "Be kind."),
        ("user", "Greet Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "Now Ada."),
    ]

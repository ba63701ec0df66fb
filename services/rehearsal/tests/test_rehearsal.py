"""Cases run on the real core in virtual time: what is answered when, and what is said of what was not expected."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_definition, a_model, a_task, an_embedding
from services.rehearsal.rehearsal import Happened, rehearse
from services.rehearsal.script import Script
from services.rehearsal.verdict import mismatches

DAY_MS = 86_400_000
NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def played(do: dict[str, Any], case: dict[str, Any], **workflow: Any) -> Happened:
    """One case of a workflow."""
    script = Script.model_validate({"cases": [{"name": "story", **case}]})
    return rehearse(a_definition(do, **workflow), script.cases[0], script.answers)


def unexpected(happened: Happened, **expect: Any) -> list[tuple[str, Any, Any]]:
    """What is not as expected."""
    script = Script.model_validate({"cases": [{"name": "story", "expect": expect}]})
    return [(each.what, each.expected, each.happened) for each in mismatches(script.cases[0].expect, happened)]


def test_three_weeks_pass_at_once() -> None:
    # Given a step that takes a day at most, tried again after a week's wait each time
    retry = {"attempts": 4}
    step = a_task("work", timeout_seconds=86_400, retry=retry)
    again = {"fails": {"code": "closed", "next": "retry_after", "retry_after": "1w"}}

    # When it works at the fourth attempt
    happened = played(step, {"answers": {"work": [again, again, again, {"output": 1}]}}, deadline_seconds=30 * 86_400)

    # Then three weeks have passed for the run
    assert (happened.run.status, happened.duration_ms) == ("completed", 21 * DAY_MS)


def test_a_gate_has_its_place_in_the_order() -> None:
    # Given a gate between two steps, for which nothing is asked
    do = a_chain(a_task("one"), {"id": "gate", "check": "one == 1"}, a_task("two"))

    # When both are done
    happened = played(do, {"answers": {"one": {"output": 1}, "two": {"output": 2}}})

    # Then it stands where it was passed
    assert unexpected(happened, order=["one", "gate", "two"]) == []
    assert unexpected(happened, order=["two", "gate"]) == [("order", "two → gate", "main/one → main/gate → main/two")]


def test_answers_come_by_attempt_in_turn_and_from_what_was_asked() -> None:
    # Given a map whose items are asked in turn, whose first one fails once
    do = {"id": "each", "parallel": {"map": "input", "do": a_task("work", input={"n": "{{ item }}"})}}
    answers = {
        "each[0]/work": [{"fails": {"next": "retry_after", "retry_after": 5}}, {"output": "again"}],
        "each[1]/work": {"output": "{{ input.n + index + attempt }}"},
        "work": {"in_turn": [{"output": "third"}, {"output": "fourth"}]},
    }

    # When it runs
    happened = played(do, {"input": [10, 20, 30, 40], "answers": answers})

    # Then each request had its answer
    assert happened.run.output == ["again", 22, "third", "fourth"]


def test_a_request_that_nobody_answers_stops_with_what_to_paste() -> None:
    # Given a model step with a schema, and a script that misspells it
    schema = {"type": "object", "required": ["kind"], "properties": {"kind": {"enum": ["bill", "letter"]}}}
    happened = played(a_model("classify", output_schema=schema), {"answers": {"clasify": {"output": 1}}})

    # Then the message names the step, and the advice is an answer that would do
    assert happened.unused == ["clasify"]
    assert str(happened.stopped) == (
        "nothing answers classify (model first of pool small, attempt 1), after 0s (`clasify` is answered)"
    )
    assert happened.stopped is not None
    assert "  answers:\n    classify:\n      output:\n        kind: bill\n" in happened.stopped.advice
    assert "prompt: Say something." in happened.stopped.advice


def test_an_embedding_is_answered_with_vectors_and_counts_the_texts() -> None:
    # Given an embedding, and a script that answers it from what was asked
    do = an_embedding("vectors", input=["water", "wine!"])
    tier = [{"pool": "small", "model": "first", "price": {"input_per_million": 1000000, "output_per_million": 9}}]

    # When it runs with and without an answer
    answers = {"vectors": {"output": "{{ [[1.0, inputs | length]] }}"}}
    happened = played(do, {"answers": answers}, tiers={"small": tier})
    silent = played(do, {})

    # Then it is a model call like any other, and a case without an answer is told one
    assert happened.run.output == [[1.0, 2]]
    assert unexpected(happened, calls={"model": 1}, tokens=3, cost=3) == []
    assert silent.stopped is not None
    assert "inputs:" in silent.stopped.advice
    assert silent.stopped.advice.count("- 0.8") == 2


def test_answers_in_turn_that_run_out_stop_the_case() -> None:
    # Given two steps and one answer for both
    do = a_chain(a_task("one"), a_task("two"))

    # When it runs
    happened = played(do, {"answers": {"*": {"in_turn": [{"output": 1}]}}})

    # Then the second stops it
    assert "`*` has 1 answers in turn, and main/two" in str(happened.stopped)


def test_an_output_template_that_fails_says_so() -> None:
    happened = played(a_task("work"), {"answers": {"work": {"output": "{{ prompt }}"}}})

    assert "the scripted output for work (task tasks.work, attempt 1) fails" in str(happened.stopped)


def test_signals_come_at_their_time_and_a_redrive_goes_on() -> None:
    # Given a step that fails once, and a redrive the next day that is cancelled a minute later
    answers = {"work": [{"fails": {}}, {"never": True}]}
    signals = [{"at": "1d", "redrive": True}, {"at": "1d 1m", "cancel": "enough"}]

    # When it runs
    happened = played(a_task("work", timeout_seconds=600), {"answers": answers, "signals": signals}, deadline_seconds=9)

    # Then it ends at the redriven deadline, before the cancellation
    assert happened.run.error is not None
    assert (happened.run.error.code, happened.duration_ms) == ("deadline_exceeded", DAY_MS + 9_000)


def test_a_child_run_is_played_where_its_workflow_is_given() -> None:
    # Given a workflow that runs another for each item, and the other one
    runs = {"id": "audit", "run": "audit", "input": {"name": "{{ item }}"}}
    do = {"id": "each", "parallel": {"map": "input", "do": runs}}
    child = a_definition(a_model("read", prompt="{{ input.name }}"), name="audit", input=NAMED)
    case = {"name": "story", "input": ["a", "b"], "answers": {"read": {"output": "{{ prompt }}!", "after": 5}}}
    script = Script.model_validate({"cases": [case]})

    # When it runs, with the child's answers in the same script
    happened = rehearse(a_definition(do), script.cases[0], {}, {"audit": child})

    # Then the children's outputs, time and usage are its steps'
    assert (happened.run.output, happened.duration_ms) == (["a!", "b!"], 5_000)
    assert happened.run.usage.model_calls == 2
    assert happened.unused == []


def test_a_child_run_that_nobody_answers_stops_its_parent_with_what_to_paste() -> None:
    # Given a child whose step has no answer
    do = {"id": "audit", "run": "audit", "input": {"name": "a"}}
    child = a_definition(a_model("read", prompt="{{ input.name }}"), name="audit", input=NAMED)
    script = Script.model_validate({"cases": [{"name": "story"}]})

    # When the parent runs
    happened = rehearse(a_definition(do), script.cases[0], {}, {"audit": child})

    # Then it says whose step it is
    assert "in the run of `audit` that audit asked for: nothing answers read (model first" in str(happened.stopped)


def test_usage_is_counted_as_the_script_says() -> None:
    # Given a model step of 14 characters whose answer says only its cost
    happened = played(a_model("say"), {"answers": {"say": {"output": "four", "cost": "0.25"}}})

    # Then tokens are counted at four characters each
    usage = happened.run.usage
    assert (usage.input_tokens, usage.output_tokens, str(usage.cost)) == (4, 1, "0.25")


def test_everything_that_is_not_expected_is_told() -> None:
    # Given a run of two steps
    do = a_chain(a_task("one"), a_task("two"), output={"a": "{{ one }}", "b": ["{{ two }}"], "c": True})
    happened = played(do, {"answers": {"one": {"output": 1, "after": 3}, "two": {"output": 2}}})

    # When all of it is expected otherwise
    told = unexpected(
        happened,
        output={"a": 1, "b": [2, 3], "c": 1, "d": None},
        ran=["three"],
        not_ran=["one"],
        order=["two", "one"],
        calls={"task": "< 2", "one": 1, "all": 3},
        attempts={"one": 2, "three": 1},
        cost="> 0",
        tokens="> 0",
        duration="< 3s",
    )

    # Then each is named with both sides
    assert told == [
        ("output.b[1]", 3, "(absent)"),
        ("output.c", 1, True),
        ("output.d", None, "(absent)"),
        ("ran", "three", "main/one, main/two"),
        ("not_ran", "one", "main/one"),
        ("order", "two → one", "main/one → main/two"),
        ("calls.task", "< 2", 2),
        ("calls.all", "3", 2),
        ("attempts.main/one", "2", 1),
        ("attempts.three", "1", "no such step ran"),
        ("tokens", "> 0", 0),
        ("cost", "> 0", "0 USD"),
        ("duration", "< 3s", "3s"),
    ]


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({}, [("status", "completed", "failed (refused: no)")]),
        ({"error": {"code": "refused", "step": "work", "message": "no"}}, []),
        (
            {"error": {"code": "other", "step": "play", "message": "yes"}},
            [("error.code", "other", "refused"), ("error.step", "play", "work"), ("error.message", "…yes…", "no")],
        ),
        ({"status": "failed", "calls": {"all": 1}}, []),
    ],
)
def test_a_failure_is_expected_by_code_step_and_message(expect: dict[str, Any], told: list[Any]) -> None:
    happened = played(a_task("work"), {"answers": {"work": {"fails": {"code": "refused", "message": "no"}}}})

    assert unexpected(happened, **expect) == told


def test_a_part_of_an_output_is_enough_where_only_a_part_is_asked_for() -> None:
    happened = played(
        a_task("work"), {"answers": {"work": {"output": {"a": {"b": 1, "c": 2}, "d": [{"e": 1, "f": 2}]}}}}
    )

    assert unexpected(happened, output_has={"a": {"b": 1}, "d": [{"e": 1}]}) == []
    assert unexpected(happened, output_has={"a": {"b": 2}}) == [("output.a.b", 2, 1)]
    assert unexpected(happened, output={"a": {"b": 1, "c": 2}}) == [("output.d", "(absent)", [{"e": 1, "f": 2}])]

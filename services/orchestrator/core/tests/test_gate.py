"""Owns the examples of `check`: gates that let through or fail fast."""

from typing import Any

import pytest
from minijinja import Environment

from penstock.testkit.builders import a_chain, a_task
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.values import MESSAGE_CHARACTERS_MAX


def a_gate(condition: str, **fields: Any) -> dict[str, Any]:
    """A gate `good`."""
    return {"id": "good", "check": condition, **fields}


def guarded(condition: str, **fields: Any) -> Conversation:
    """A run with a gate between two tasks."""
    return Conversation(a_chain(a_task("one"), a_gate(condition, **fields), a_task("two", input="{{ good }}")))


def test_what_holds_lets_the_chain_go_on_and_is_recorded() -> None:
    talk = guarded("one.score > 0.5")

    talk.succeed("main/one", {"score": 0.7})

    assert talk.asked() == ["main/two#1"]
    assert talk.inputs()[0] is True
    step = talk.run.steps["main/good"]
    assert (step.kind, step.phase.value, step.output, step.attempt) == ("check", "completed", True, 0)
    assert step in talk.last.steps
    assert [(change["step"], change.get("preview")) for change in talk.last.changes][1] == ("main/good", True)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("", "`one.score > 0.5` does not hold"),
        ("only {{ one.score }} of 0.5", "only 0.1 of 0.5"),
        (
            "{{ one.missing }}",
            "`one.score > 0.5` does not hold; its message cannot be written: `{{ one.missing }}`: `one.missing` "
            "is not defined: there is no field `missing` (there are: score)",
        ),
        ("{{ 'x' * 3000 }}", "x" * MESSAGE_CHARACTERS_MAX + "…"),
    ],
)
def test_what_does_not_hold_fails_the_chain_and_says_why(message: str, says: str) -> None:
    talk = guarded("one.score > 0.5", message=message)

    finished = talk.succeed("main/one", {"score": 0.1}).finished

    assert talk.asked() == []
    assert finished is not None
    assert finished.error is not None
    assert finished.error.model_dump() == {"code": "check_failed", "message": says, "step": "main/good"}
    assert talk.run.steps["main/good"].phase.value == "failed"


def test_a_condition_that_cannot_be_evaluated_fails_as_an_expression() -> None:
    talk = guarded("one.score > 0.5")

    finished = talk.succeed("main/one", {}).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("expression_failed", "main/good")
    assert finished.error.message.startswith("check: ")


@pytest.mark.parametrize(
    "value", [None, False, True, 0, 0.0, -0.0, 1, -1, 0.5, "", " ", "false", [], [0], {}, {"a": 0}]
)
def test_a_value_holds_where_a_template_takes_it_for_true(value: Any) -> None:
    talk = guarded("one")

    talk.succeed("main/one", value)

    holds = Environment().render_str("{% if value %}yes{% endif %}", value=value) == "yes"
    assert (talk.run.steps["main/good"].phase.value == "completed") is holds


def test_a_gate_is_asked_once() -> None:
    """Guard: a restored run has what was found in its row, even where the expression would now say otherwise."""
    talk = guarded("one.score > 0.5")
    talk.succeed("main/one", {"score": 0.7})
    talk.run.steps["main/one"].output = {"score": 0.1}
    talk.run.live = None

    finished = talk.succeed("main/two", "ok").finished

    assert finished is not None
    assert finished.status == "completed"


def test_a_gate_that_failed_stays_failed_when_its_run_is_restored() -> None:
    """Guard: a best effort makes do with it, so the run goes on over it."""
    effort = {"sections": [a_gate("input.good"), a_task("go")], "join": "best_effort"}
    talk = Conversation({"id": "all", "parallel": effort}, {"good": False})
    talk.run.input = {"good": True}
    talk.run.live = None

    finished = talk.succeed("all/go", 1).finished

    assert finished is not None
    assert finished.output["good"]["error"]["code"] == "check_failed"


def test_a_gate_that_is_redriven_looks_again() -> None:
    talk = guarded("one.score > 0.5")
    talk.succeed("main/one", {"score": 0.1})

    talk.redrive()
    assert talk.run.error is not None
    assert talk.run.error.code == "check_failed"

    talk.run.steps["main/one"].output = {"score": 0.9}  # as a person may have put it right
    talk.redrive()
    assert talk.asked() == ["main/two#1"]
    assert talk.run.steps["main/good"].output is True


def test_a_gate_alone_is_a_whole_workflow() -> None:
    assert Conversation(a_gate("input.go"), {"go": 1}).run.output is True
    assert Conversation(a_gate("input.go"), {"go": 0}).run.status == "failed"

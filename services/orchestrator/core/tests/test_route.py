"""Owns the examples of `route`."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_task
from services.orchestrator.core.tests.conversation import Conversation

ROUTE: dict[str, Any] = {
    "id": "pick",
    "route": [
        {"case": "strong", "when": "look.kind == 'strong'", "do": a_task("lawyer")},
        {"case": "unsure", "when": "look.confidence < 0.5", "do": a_task("again")},
    ],
}


@pytest.mark.parametrize(
    ("looked", "case", "path"),
    [
        ({"kind": "strong", "confidence": 0.1}, "strong", "main/pick/lawyer#1"),
        ({"kind": "weak", "confidence": 0.1}, "unsure", "main/pick/again#1"),
        ({"kind": "weak", "confidence": 0.9}, "otherwise", "main/pick/done#1"),
    ],
)
def test_the_first_case_that_holds_is_taken_and_recorded(looked: dict[str, Any], case: str, path: str) -> None:
    talk = Conversation(
        a_chain(a_task("look"), {**ROUTE, "otherwise": a_task("done")}, a_task("end", input="{{ pick }}"))
    )

    talk.succeed("main/look", looked)

    assert talk.asked() == [path]
    step = talk.run.steps["main/pick"]
    assert (step.kind, step.phase.value, step.output) == ("route", "completed", case)
    assert step in talk.last.steps
    talk.succeed(path.removesuffix("#1"), "chosen")
    assert talk.inputs()[0] == "chosen"


def test_with_no_case_that_holds_the_output_is_null() -> None:
    talk = Conversation(a_chain(a_task("look"), ROUTE))

    finished = talk.succeed("main/look", {"kind": "weak", "confidence": 1}).finished

    assert finished is not None
    assert (finished.status, finished.output) == ("completed", None)


def test_a_choice_is_made_once() -> None:
    """Guard: a restored run takes the case in its row, even where the expression would now choose another."""
    talk = Conversation(a_chain(a_task("look"), ROUTE))
    talk.succeed("main/look", {"kind": "strong", "confidence": 1})
    talk.run.steps["main/look"].output = {"kind": "weak", "confidence": 0}
    talk.run.live = None

    finished = talk.succeed("main/pick/lawyer", "ok").finished

    assert finished is not None
    assert finished.output == "ok"


def test_a_case_that_cannot_be_evaluated_fails_the_route() -> None:
    talk = Conversation(a_chain(a_task("look"), ROUTE))

    finished = talk.succeed("main/look", {}).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("expression_failed", "main/pick")
    assert talk.run.steps["main/pick"].phase.value == "failed"

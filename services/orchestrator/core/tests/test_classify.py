"""Owns the examples of `route` with `classify`: who is asked, how sure they must be, what is kept of it."""

from typing import Any

import pytest

from penstock.contracts.messages import InferenceRequested, NextMove
from penstock.testkit.builders import a_chain, a_task, tokens
from services.orchestrator.core.tests.conversation import Conversation, only_money


def a_route(*, otherwise: bool = False, cases: int = 2, **fields: Any) -> dict[str, Any]:
    """A route `pick` of the cases `invoice` and `complaint`."""
    ways = [
        {"case": "invoice", "description": "asks for money", "do": a_task("pay", input="{{ input.text }}")},
        {"case": "complaint", "do": a_task("answer")},
    ]
    classify = {"model": "small", "prompt": "Which kind is this?\n{{ input.text }}", **fields}
    block: dict[str, Any] = {"id": "pick", "route": ways[:cases], "classify": classify}
    return block | ({"otherwise": a_task("person")} if otherwise else {})


def asked(*, otherwise: bool = False, budget: dict[str, Any] | None = None, **fields: Any) -> Conversation:
    """A run with the route in a chain, and a last step that sees what came of it."""
    route = a_route(otherwise=otherwise, **fields)
    tiers = {
        "small": [{"pool": "small", "model": "first"}, {"pool": "burst", "model": "second"}],
        "large": [{"pool": "large", "model": "third"}],
    }
    end = a_task("end", input="{{ pick }}")
    return Conversation(a_chain(route, end), {"text": "Dear sirs"}, tiers=tiers, budget=budget)


def choice(case: str, confidence: float) -> dict[str, Any]:
    """What a classifier answers."""
    return {"case": case, "confidence": confidence}


def test_a_model_is_asked_for_one_of_the_cases() -> None:
    talk = asked(system="You sort letters.", max_tokens=99, temperature=0.5, timeout_seconds=7)

    request = talk.model_call()
    assert talk.asked() == ["main/pick/classify#1"]
    assert [(message.role, message.content) for message in request.messages] == [
        (
            "system",
            "You sort letters.\n\nChoose one of these cases:\n- invoice: asks for money\n- complaint\n"
            "Answer in JSON: the case, how confident you are of it from 0 to 1 and, where it helps, a short reason.",
        ),
        ("user", "Which kind is this?\nDear sirs"),
    ]
    assert request.output_schema is not None
    assert list(request.output_schema["properties"]) == ["case", "confidence", "reason"]
    assert request.output_schema["properties"]["case"] == {"enum": ["invoice", "complaint"]}
    assert (request.model, request.max_tokens, request.temperature) == ("first", 99, 0.5)
    assert request.deadline.timestamp() * 1000 == talk.now_ms + 7_000
    assert "main/pick" not in talk.run.steps


def test_the_case_is_taken_and_recorded() -> None:
    talk = asked()

    talk.succeed("main/pick/classify", choice("invoice", 0.2))

    assert talk.asked() == ["main/pick/pay#1"]
    assert talk.inputs() == ["Dear sirs"]
    step = talk.run.steps["main/pick"]
    assert (step.kind, step.phase.value, step.output) == ("route", "completed", "invoice")
    talk.succeed("main/pick/pay", "paid")
    assert talk.inputs() == ["paid"]


def test_a_choice_that_is_sure_enough_holds() -> None:
    talk = asked(min_confidence=0.7, escalate="large", otherwise=True)

    talk.succeed("main/pick/classify", choice("complaint", 0.7))

    assert talk.asked() == ["main/pick/answer#1"]


def test_an_unsure_choice_is_asked_for_again_on_the_other_tier() -> None:
    talk = asked(min_confidence=0.7, escalate="large", otherwise=True)

    talk.succeed("main/pick/classify", choice("invoice", 0.69))

    assert talk.asked() == ["main/pick/escalate#1"]
    assert (talk.model_call().pool, talk.model_call().model) == ("large", "third")
    assert "main/pick" not in talk.run.steps
    talk.succeed("main/pick/escalate", choice("complaint", 0.9))
    assert talk.asked() == ["main/pick/answer#1"]
    assert talk.run.steps["main/pick"].output == "complaint"


@pytest.mark.parametrize("escalate", [None, "large"])
def test_a_choice_that_stays_unsure_is_otherwise(escalate: str | None) -> None:
    talk = asked(min_confidence=0.7, escalate=escalate, otherwise=True)

    talk.succeed("main/pick/classify", choice("invoice", 0.1))
    if escalate is not None:
        talk.succeed("main/pick/escalate", choice("invoice", 0.2))

    assert talk.asked() == ["main/pick/person#1"]
    assert talk.run.steps["main/pick"].output == "otherwise"


@pytest.mark.parametrize(
    ("escalate", "way_out"),
    [(None, "give the route an `otherwise` or `classify.escalate`"), ("large", "give the route an `otherwise`")],
)
def test_with_no_otherwise_a_choice_that_stays_unsure_fails_the_route(escalate: str | None, way_out: str) -> None:
    talk = asked(min_confidence=0.7, escalate=escalate)

    finished = talk.succeed("main/pick/classify", choice("invoice", 0.1)).finished
    if escalate is not None:
        finished = talk.succeed("main/pick/escalate", choice("invoice", 0.1)).finished

    assert finished is not None
    assert finished.error is not None
    assert finished.error.model_dump() == {
        "code": "confidence_too_low",
        "message": "the classifier chose `invoice` with confidence 0.1, less than `classify.min_confidence` 0.7 of the "
        f"route `pick`: lower that, or {way_out}",
        "step": "main/pick",
    }
    assert talk.run.steps["main/pick"].phase.value == "failed"


@pytest.mark.parametrize("answer", [choice("letter", 1), choice("invoice", 95), {"case": "invoice"}, "invoice"])
def test_an_answer_that_is_no_choice_is_repaired(answer: Any) -> None:
    talk = asked()

    talk.succeed("main/pick/classify", answer)

    assert talk.asked() == ["main/pick/classify#2"]
    assert "Your answer before was refused" in talk.model_call().messages[-1].content


def test_a_classifier_is_retried_on_its_tier_and_fails_the_route_when_it_gives_up() -> None:
    talk = asked(retry={"attempts": 2}, otherwise=True, min_confidence=0.5)

    talk.fail("main/pick/classify", NextMove.RETRY_ELSEWHERE)
    assert talk.model_call().model == "second"
    finished = talk.fail("main/pick/classify", NextMove.RETRY_ELSEWHERE, attempt=2, code="overloaded").finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("overloaded", "main/pick/classify")
    assert "main/pick" not in talk.run.steps


def test_classifiers_are_model_calls_of_the_budget() -> None:
    talk = asked(min_confidence=0.7, escalate="large", budget={"model_calls": 1})

    finished = talk.succeed("main/pick/classify", choice("invoice", 0.1), **tokens()).finished

    assert finished is not None
    assert finished.error is not None
    assert (finished.error.code, finished.error.step) == ("budget_exceeded", "main/pick/escalate")


def test_a_choice_is_made_once() -> None:
    """Guard: a restored run takes the case in its row, whatever the classifier's row says by now."""
    talk = asked(min_confidence=0.7)
    talk.succeed("main/pick/classify", choice("invoice", 0.9))
    talk.run.steps["main/pick/classify"].output = choice("complaint", 0.1)
    talk.run.live = None

    talk.succeed("main/pick/pay", "paid")

    assert talk.inputs() == ["paid"]


def test_a_run_that_is_restored_while_a_classifier_is_asked_goes_on_from_its_rows() -> None:
    talk = asked(min_confidence=0.7, escalate="large")
    talk.succeed("main/pick/classify", choice("invoice", 0.1))
    talk.run.live = None
    talk.fail("main/pick/escalate", NextMove.RETRY_AFTER, retry_after_ms=1_000)
    talk.run.live = None
    talk.ring()

    assert talk.asked() == ["main/pick/escalate#2"]
    talk.succeed("main/pick/escalate", choice("complaint", 0.8), attempt=2)
    assert talk.asked() == ["main/pick/answer#1"]


def test_a_redriven_route_asks_the_classifier_that_failed_and_no_other() -> None:
    talk = asked(min_confidence=0.7, escalate="large", retry={"attempts": 1})
    talk.succeed("main/pick/classify", choice("invoice", 0.1))
    talk.fail("main/pick/escalate")

    talk.redrive()

    assert talk.asked() == ["main/pick/escalate#2"]


def test_a_redrive_does_not_pay_for_a_doubt_again() -> None:
    """Guard: what a classifier answered is a paid result, and stays."""
    talk = asked(min_confidence=0.7)
    talk.succeed("main/pick/classify", choice("invoice", 0.1))

    finished = talk.redrive().finished

    assert talk.asked() == []
    assert finished is not None
    assert finished.error is not None
    assert finished.error.code == "confidence_too_low"


def test_a_cancelled_run_awaits_no_classifier() -> None:
    talk = asked()

    talk.cancel()

    assert talk.run.steps["main/pick/classify"].phase.value == "cancelled"
    assert only_money(talk.succeed("main/pick/classify", choice("invoice", 1)))


def test_cases_side_by_side_are_classified_apart() -> None:
    route = a_route()
    talk = Conversation({"id": "docs", "parallel": {"map": "input.texts", "do": route}}, {"text": "", "texts": [1, 2]})
    assert talk.asked() == ["docs[0]/pick/classify#1", "docs[1]/pick/classify#1"]
    assert all(isinstance(request, InferenceRequested) for request in talk.last.requests)

    talk.succeed("docs[1]/pick/classify", choice("complaint", 1))
    assert talk.asked() == ["docs[1]/pick/answer#1"]
    talk.succeed("docs[0]/pick/classify", choice("invoice", 1))
    assert talk.asked() == ["docs[0]/pick/pay#1"]

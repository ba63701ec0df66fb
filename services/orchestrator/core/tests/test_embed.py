"""Owns the examples of embeddings: what is asked, what comes of it, what it reserves, and what cannot be embedded."""

from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.messages import Budget, NextMove
from penstock.contracts.model_calls import INPUTS_MAX
from penstock.testkit.builders import a_chain, a_task, an_embedding, tokens
from penstock.workflow.definition import Definition
from services.orchestrator.core.state import Amounts
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.values import VALUE_BYTES_MAX

PRICE = {"input_per_million": "100", "output_per_million": "1000"}
TIERS = {"small": [{"pool": "small", "model": "first", "price": PRICE}, {"pool": "burst", "model": "second"}]}


def failure(talk: Conversation) -> tuple[str, str | None, str]:
    """What the run failed with."""
    assert talk.run.error is not None
    return talk.run.error.code, talk.run.error.step, talk.run.error.message


class Unsound(Conversation):
    """Of a definition that says less of its input than the checks could."""

    only_sound = False


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("{{ input.text }}", ["stone"]),
        ("A {{ input.text }}.", ["A stone."]),
        ("{{ input.texts }}", ["water", "wine"]),
        (["{{ input.text }}", "and {{ input.texts[0] }}"], ["stone", "and water"]),
    ],
)
def test_a_text_or_a_list_of_texts_is_embedded(written: Any, asked: list[str]) -> None:
    talk = Unsound(an_embedding("vectors", input=written), {"text": "stone", "texts": ["water", "wine"]})

    call = talk.model_call()

    assert (call.operation, call.inputs, call.messages, call.stream) == ("embedding", asked, [], False)
    assert (call.pool, call.model) == ("small", "first")
    assert talk.run.steps["vectors"].kind == "model"


def test_the_vectors_are_the_output_and_later_steps_know_them() -> None:
    keep = a_task("keep", input={"second": "{{ vectors[1] }}", "count": "{{ vectors | length }}"})
    talk = Conversation(a_chain(an_embedding("vectors", input=["water", "wine"]), keep))

    talk.succeed("main/vectors", [[0.5, 1.0], [0.0, 1.5]])

    assert talk.inputs() == [{"second": [0.0, 1.5], "count": 2}]


def test_a_model_that_gives_no_embeddings_is_passed_by_and_the_last_one_ends_the_step() -> None:
    talk = Conversation(an_embedding("vectors"))

    talk.fail("vectors", NextMove.RETRY_ELSEWHERE, code="embeddings_unsupported")
    assert talk.model_call().model == "second"
    assert talk.model_call().inputs == ["water"]
    talk.fail("vectors", NextMove.RETRY_ELSEWHERE, attempt=2, code="embeddings_unsupported")

    assert failure(talk)[:2] == ("embeddings_unsupported", "vectors")


def test_an_embedding_reserves_its_texts_and_settles_what_it_used() -> None:
    talk = Conversation(an_embedding("vectors", input=["x" * 100, "y" * 60]), tiers=TIERS, budget=Budget(tokens=1_000))
    step = talk.run.steps["vectors"]
    assert step.reserved == Amounts(1, 80 + 8, Decimal("0.0088"))

    talk.succeed("vectors", [[1.0], [1.0]], **tokens(40, 0, "0.004"))

    assert talk.run.steps["vectors"].reserved is None
    assert (step.input_tokens, step.output_tokens, step.cost) == (40, 0, Decimal("0.004"))
    assert talk.run.usage.model_calls == 1


def test_what_its_budget_has_no_room_for_is_not_asked() -> None:
    talk = Conversation(an_embedding("vectors", input="x" * 100), tiers=TIERS, budget=Budget(tokens=53))

    assert talk.asked() == []
    assert failure(talk)[0] == "budget_exceeded"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (7, "only a text, or a list of texts"),
        (None, "only a text, or a list of texts"),
        (["water", 7], "only a text, or a list of texts"),
        ({"text": "water"}, "only a text, or a list of texts"),
        ([], f"there are 0 texts; 1 to {INPUTS_MAX}"),
        (["x"] * (INPUTS_MAX + 1), f"there are {INPUTS_MAX + 1} texts; 1 to {INPUTS_MAX}"),
    ],
    ids=["number", "null", "number among texts", "object", "nothing", "too many"],
)
def test_what_is_no_text_fails_the_step_before_any_model_is_asked(given: Any, says: str) -> None:
    talk = Unsound(an_embedding("vectors", input="{{ input.given }}"), {"given": given})

    assert talk.asked() == []
    code, step, message = failure(talk)
    assert (code, step) == ("expression_failed", "vectors")
    assert message.startswith(f"input: {says}")


def test_texts_that_are_too_large_to_send_fail_the_step() -> None:
    half = "x" * (VALUE_BYTES_MAX // 2 + 1)
    talk = Conversation(an_embedding("vectors", input=["{{ input.text }}", "{{ input.text }}"]), {"text": half})

    assert talk.asked() == []
    assert failure(talk)[0] == "value_too_large"


def test_it_times_out_and_is_retried_as_any_call() -> None:
    talk = Conversation(an_embedding("vectors", timeout_seconds=2, retry={"attempts": 2}))

    talk.ring()
    assert (talk.asked(), talk.model_call().model) == (["vectors#2"], "second")
    talk.ring()

    assert failure(talk)[0] == "timeout"


def test_an_input_of_another_form_is_no_definition() -> None:
    body = {"name": "example", "do": {"id": "vectors", "embed": "small", "input": {"text": "water"}}}

    with pytest.raises(ValueError, match="what is embedded is a template"):
        Definition.model_validate(body)

"""Owns the examples of what a model step may ask for beside its prompt, and that nothing changes where it does not."""

from typing import Any

import pytest

from penstock.contracts.messages import InferenceRequested, NextMove, Sampling
from penstock.contracts.model_calls import CHOICES_MAX, IMAGE_TOKENS_MAX
from penstock.testkit.builders import a_model
from services.orchestrator.core.budget import worst_case
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.values import VALUE_BYTES_MAX

PHOTO = {"$blob": "sha256:" + "a" * 64, "bytes": 9, "media_type": "image/png"}


def asked(talk: Conversation) -> InferenceRequested:
    """The last model call."""
    calls = [request for request in talk.requests.values() if isinstance(request, InferenceRequested)]
    return calls[-1]


def test_what_a_step_does_not_ask_for_is_not_said() -> None:
    said = asked(Conversation(a_model("say"))).model_dump(exclude_none=True, exclude_defaults=True)

    assert not said.keys() & {"choices", "regex", "sampling", "adapter", "on_overflow", "stream"}


def test_what_a_step_asks_for_goes_into_its_call() -> None:
    sampling = {"top_p": 0.5, "stop": ["END"]}
    step = a_model("say", choices=["yes", "no"], sampling=sampling, adapter="legal", on_overflow="clamp")

    call = asked(Conversation(step))

    assert (call.choices, call.adapter, call.on_overflow) == (["yes", "no"], "legal", "clamp")
    assert call.sampling == Sampling(top_p=0.5, stop=["END"])
    assert asked(Conversation(a_model("say", regex="[0-9]+"))).regex == "[0-9]+"


class Unsound(Conversation):
    """Of a definition that says less of its input than the checks could."""

    only_sound = False


def test_choices_can_come_from_the_runs_data_each_once_in_its_order() -> None:
    talk = Unsound(a_model("say", choices="input.kinds"), {"kinds": ["b", "a", "b"]})

    assert asked(talk).choices == ["b", "a"]
    talk.fail("say", NextMove.REPAIR_OUTPUT, code="output_invalid", message="'c' is none of the 2 choices")
    assert asked(talk).choices == ["b", "a"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a", "not a list of texts"),
        (None, "not a list of texts"),
        (["a", 7], "not a list of texts"),
        (["a", ""], "not a list of texts"),
        ([], "there are 0 different texts"),
        ([str(number) for number in range(CHOICES_MAX + 1)], f"there are {CHOICES_MAX + 1} different texts"),
    ],
    ids=["text", "null", "number among texts", "empty text", "nothing", "too many"],
)
def test_what_are_no_choices_fails_the_step_by_name_before_any_model_is_asked(given: Any, says: str) -> None:
    talk = Unsound(a_model("say", choices="input.kinds"), {"kinds": given})

    assert not talk.requests
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("choices_invalid", "say")
    assert talk.run.error.message.startswith(f"choices: {says}")


def test_choices_that_are_too_large_to_send_fail_the_step() -> None:
    half = "x" * (VALUE_BYTES_MAX // 2 + 1)

    talk = Conversation(a_model("say", choices="[input.text ~ '1', input.text ~ '2']"), {"text": half})

    assert not talk.requests
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("value_too_large", "say")


def test_an_answer_that_is_none_of_the_choices_is_repaired() -> None:
    talk = Conversation(a_model("say", choices=["yes", "no"]))

    talk.fail("say", NextMove.REPAIR_OUTPUT, code="output_invalid", message="'maybe' is none of the 2 choices")

    assert "none of the 2 choices" in asked(talk).messages[-1].content


@pytest.mark.parametrize(("given", "count"), [([PHOTO, PHOTO], 2), (PHOTO, 1), ([], 0), (None, 0)])
def test_images_are_references_that_an_expression_gives(given: Any, count: int) -> None:
    talk = Conversation(a_model("see", images="input.photos"), {"photos": given})

    images = asked(talk).messages[-1].images or []

    assert [image.blob for image in images] == [PHOTO["$blob"]] * count
    without = asked(Conversation(a_model("see")))
    assert worst_case(asked(talk), None).tokens - worst_case(without, None).tokens == count * IMAGE_TOKENS_MAX


@pytest.mark.parametrize("given", ["a photo", [3], {**PHOTO, "media_type": "text/plain"}, [PHOTO] * 17, {"url": "x"}])
def test_what_is_no_image_fails_the_step_before_any_model_is_asked(given: Any) -> None:
    talk = Conversation(a_model("see", images="input.photos"), {"photos": given})

    assert not talk.requests
    assert talk.last.finished is not None
    assert talk.last.finished.error is not None
    assert "images" in talk.last.finished.error.message


def test_an_agents_turns_draw_as_it_says() -> None:
    loop = {
        "model": "small",
        "prompt": "Go.",
        "tools": [{"tool": "files.read"}],
        "sampling": {"top_k": 3},
        "adapter": "a",
    }

    call = asked(Conversation({"id": "go", "agent": loop}))

    assert (call.sampling, call.adapter) == (Sampling(top_k=3), "a")

"""Tests of what never reaches an engine: each has a name of its own, and says what was wrong."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import ChatMessage, Image, InferenceRequested, NextMove, ToolSignature, WorkError
from services.inference.core.limits import ModelLimits
from services.inference.core.refusals import ESTIMATE_FACTOR, Accepted, examined
from services.inference.tests.scripted import a_request

ANYTHING = ModelLimits(None, images=True, embeddings=True, tools=True, adapters=None)
SMALL = ModelLimits(100, images=True, embeddings=True, tools=True)
ELSEWHERE, GIVE_UP = NextMove.RETRY_ELSEWHERE, NextMove.GIVE_UP


def tokens(count: int) -> Callable[[InferenceRequested], int]:
    return lambda _: count


def refusal(limits: ModelLimits = ANYTHING, prompt: int = 10, **changes: Any) -> WorkError:
    outcome = examined(a_request(**changes), limits, tokens(prompt))
    assert isinstance(outcome, WorkError)
    return outcome


def a_tool(name: str = "look", **parameters: Any) -> ToolSignature:
    return ToolSignature(name=name, parameters=parameters or {"type": "object"})


def seeing(count: int = 1, size_bytes: int = 9) -> list[ChatMessage]:
    image = Image(blob="sha256:" + "0" * 64, bytes=size_bytes, media_type="image/png")
    return [ChatMessage(role="user", content="see", images=[image] * count)]


EMBEDDING: dict[str, Any] = {"operation": "embedding", "messages": [], "inputs": ["a"]}


@pytest.mark.parametrize(
    ("changes", "code", "next_move", "says"),
    [
        ({"output_schema": {"type": "wrong"}}, "schema_invalid", GIVE_UP, "wrong"),
        ({"regex": "("}, "regex_invalid", GIVE_UP, "the regex ("),
        ({"regex": "a)|(b"}, "regex_invalid", GIVE_UP, "the regex a)|(b"),
        ({"regex": "(?=a)a"}, "regex_invalid", GIVE_UP, "linear-time"),
        ({"regex": "((a{1000}){1000}){9}"}, "regex_invalid", GIVE_UP, "too large"),
        ({"tools": [a_tool(type="wrong")]}, "tool_schema_invalid", GIVE_UP, "'look'"),
        ({"tools": [a_tool(type="string")]}, "tool_schema_invalid", GIVE_UP, "arguments are an object"),
        ({"tools": [a_tool(), a_tool()]}, "tools_invalid", GIVE_UP, "two tools are called 'look'"),
        ({"tools": [a_tool()], "tool_choice": "leap"}, "tools_invalid", GIVE_UP, "'leap'"),
        ({"messages": seeing(count=17)}, "image_invalid", GIVE_UP, "17 images"),
        ({"messages": seeing(size_bytes=40_000_000)}, "image_invalid", GIVE_UP, "40000000|bytes together"),
    ],
)
def test_what_no_engine_could_do_is_given_up(
    changes: dict[str, Any], code: str, next_move: NextMove, says: str
) -> None:
    error = refusal(**changes)

    assert (error.code, error.next) == (code, next_move)
    assert any(part in error.message for part in says.split("|"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messages": seeing()}, "image_unsupported"),
        ({"tools": [a_tool()]}, "tools_unsupported"),
        ({"adapter": "legal"}, "unknown_adapter"),
        (EMBEDDING, "embeddings_unsupported"),
    ],
)
def test_what_this_model_does_not_take_goes_elsewhere(changes: dict[str, Any], code: str) -> None:
    error = refusal(ModelLimits(), **changes)

    assert (error.code, error.next) == (code, ELSEWHERE)


@pytest.mark.parametrize("changes", [{"messages": seeing()}, {"tools": [a_tool()]}, {"adapter": "legal"}, EMBEDDING])
def test_what_nobody_knows_the_engine_is_asked(changes: dict[str, Any]) -> None:
    unknown = ModelLimits(images=None, embeddings=None, tools=None, adapters=None)

    assert isinstance(examined(a_request(**changes), unknown, tokens(10)), Accepted)


@pytest.mark.parametrize("prompt", [100, 101, 100_000])
@pytest.mark.parametrize("changes", [{}, {"on_overflow": "clamp"}, EMBEDDING])
def test_a_prompt_longer_than_the_model_is_refused_and_never_cut(prompt: int, changes: dict[str, Any]) -> None:
    error = refusal(SMALL, prompt, **changes)

    assert (error.code, error.next) == ("context_overflow", ELSEWHERE)
    assert str(prompt) in error.message


def test_inputs_of_an_embedding_have_the_whole_context_each() -> None:
    inputs = {**EMBEDDING, "inputs": ["x" * 60, "y" * 60]}

    assert isinstance(
        examined(a_request(**inputs), SMALL, lambda request: sum(map(len, request.inputs or []))), Accepted
    )


def test_an_answer_beyond_the_room_is_refused_or_clamped_as_asked() -> None:
    # given room for 40 tokens
    fits = examined(a_request(max_tokens=40), SMALL, tokens(60))
    assert isinstance(fits, Accepted)
    assert fits.max_tokens_used is None

    # then one more is refused
    error = refusal(SMALL, 60, max_tokens=41)
    assert (error.code, error.next) == ("max_tokens_beyond_room", ELSEWHERE)
    assert "max_tokens=41" in error.message

    # and clamped where that was asked for, and said
    clamped = examined(a_request(max_tokens=41, on_overflow="clamp"), SMALL, tokens(60))
    assert isinstance(clamped, Accepted)
    assert (clamped.request.max_tokens, clamped.max_tokens_used) == (40, 40)


@given(st.integers(1, 500), st.integers(1, 500), st.sampled_from(["refuse", "clamp"]))
def test_what_is_accepted_fits_and_what_fits_is_accepted(prompt: int, max_tokens: int, on_overflow: str) -> None:
    outcome = examined(a_request(max_tokens=max_tokens, on_overflow=on_overflow), SMALL, tokens(prompt))

    if isinstance(outcome, Accepted):
        assert prompt + outcome.request.max_tokens <= 100
        assert outcome.request.max_tokens == (outcome.max_tokens_used or max_tokens)
    else:
        assert prompt >= 100 or (on_overflow == "refuse" and prompt + max_tokens > 100)


def test_an_estimate_refuses_nothing_that_may_fit() -> None:
    about = ModelLimits(100, tokens_exact=False)

    assert isinstance(examined(a_request(), about, tokens(100 * ESTIMATE_FACTOR - 1)), Accepted)
    assert refusal(about, 100 * ESTIMATE_FACTOR).code == "context_overflow"
    assert refusal(about, 1, max_tokens=101).code == "max_tokens_beyond_room"
    clamped = examined(a_request(max_tokens=101, on_overflow="clamp"), about, tokens(1))
    assert isinstance(clamped, Accepted)
    assert clamped.request.max_tokens == 101

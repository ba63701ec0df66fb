"""Tests of what is expected of an answer's length."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.expected import QUANTILE, ExpectedTokens

STEP = ("w", "1", "s")


def test_nothing_known_means_all_that_is_allowed() -> None:
    assert ExpectedTokens().tokens(STEP, 500) == 500


@given(answers=st.lists(st.integers(0, 100_000), max_size=50), max_tokens=st.integers(1, 100_000))
def test_it_is_at_least_one_and_never_more_than_allowed(answers: list[int], max_tokens: int) -> None:
    expected = ExpectedTokens()
    for tokens in answers:
        expected.learn(STEP, tokens)
        assert 1 <= expected.tokens(STEP, max_tokens) <= max_tokens


def test_it_rests_where_a_share_of_the_answers_is_no_longer_and_follows_a_change() -> None:
    """Given answers of 1 … 100 tokens, and later of ten times as many, then the estimate is near their quantile."""
    expected = ExpectedTokens()
    for tokens in (37 * n % 100 + 1 for n in range(400)):
        expected.learn(STEP, tokens)
    assert abs(expected.tokens(STEP, 10_000) - 100 * QUANTILE) < 15
    for tokens in (10 * (37 * n % 100 + 1) for n in range(400)):
        expected.learn(STEP, tokens)
    assert abs(expected.tokens(STEP, 10_000) - 1000 * QUANTILE) < 150


def test_its_memory_is_bounded_and_keeps_what_is_asked_about() -> None:
    expected = ExpectedTokens(steps_max=3)
    for number in range(10):
        expected.learn(("w", "1", f"s{number}"), 10)
        expected.learn(STEP, 10)
        assert expected.tokens(STEP, 500) < 500
        assert len(expected) <= 3

"""Tests of token buckets."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.buckets import estimated_tokens, exclusive

COUNTS = st.integers(min_value=-10, max_value=10**9)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_buckets_never_overlap_and_sum_to_what_was_processed(
    prompt: int, cached: int, completion: int, reasoning: int
) -> None:
    usage = exclusive(prompt, cached, completion, reasoning)

    buckets = (usage.input, usage.cached_input, usage.output, usage.reasoning)
    assert min(buckets) >= 0
    assert sum(buckets) == max(0, prompt) + max(0, completion)


def test_cached_tokens_are_taken_out_of_the_input_and_reasoning_out_of_the_output() -> None:
    usage = exclusive(prompt=100, cached=60, completion=50, reasoning=30)

    assert (usage.input, usage.cached_input, usage.output, usage.reasoning) == (40, 60, 20, 30)


def test_four_characters_are_a_token_and_any_text_has_one() -> None:
    assert [estimated_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]

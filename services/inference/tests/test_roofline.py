"""Tests of the simulated engine's time."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.catalogue import HARDWARE, ModelShape
from services.inference.core.roofline import PREFILL_TOKENS_MAX, Roofline, Sequence, step

H100 = Roofline(HARDWARE["h100-sxm"])


def test_a_small_batch_decodes_as_fast_as_memory_gives_the_weights() -> None:
    seconds = H100.step_seconds(tokens=1, kv_tokens=100) - H100.overhead_seconds

    weights = 2 * 8.03e9 / (3.35e12 * 0.8)
    assert weights < seconds < weights * 1.01


def test_a_long_prompt_is_bound_by_arithmetic() -> None:
    seconds = H100.step_seconds(tokens=PREFILL_TOKENS_MAX, kv_tokens=0)

    assert seconds == 2 * 8.03e9 * PREFILL_TOKENS_MAX / (989.4e12 * 0.5) + H100.overhead_seconds


def test_the_cache_of_llama_8b_takes_128_kib_a_token() -> None:
    assert int(ModelShape().kv_bytes_per_token) == 128 * 1024


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 200)), min_size=1, max_size=20))
def test_every_sequence_ends_with_its_prompt_read_and_its_output_given(shape: list[tuple[int, int]]) -> None:
    # given a batch
    sequences = [Sequence(prompt, output) for prompt, output in shape]
    left = list(sequences)

    # when it is stepped until all have ended
    steps = 0
    while left:
        assert step(left, H100) > 0
        steps += 1
        left = [sequence for sequence in left if not sequence.finished]

    # then no token is missing, and no step was for nothing
    assert [sequence.cached for sequence in sequences] == [prompt + output - 1 for prompt, output in shape]
    assert steps <= sum(-(-prompt // PREFILL_TOKENS_MAX) + output for prompt, output in shape)


def test_a_full_batch_gives_more_tokens_a_second_than_one_request_alone() -> None:
    def tokens_per_second(batch: int) -> float:
        return batch / H100.step_seconds(tokens=batch, kv_tokens=batch * 500)

    assert tokens_per_second(1) < tokens_per_second(8) < tokens_per_second(64)
    assert tokens_per_second(64) < 64 * tokens_per_second(1)

"""Tests of the pace: no window of a minute sees more than the limit and the burst, and nothing waits without cause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.pacing import BURST_SECONDS, Left, Pace

CALLS = st.lists(st.tuples(st.integers(1, 2_000), st.floats(0, 20)), min_size=1, max_size=60)


def went(pace: Pace, calls: list[tuple[int, float]]) -> list[tuple[float, int]]:
    """When calls go that come one after the other, with pauses before them."""
    at, gone = 0.0, []
    for tokens, pause in calls:
        at += pause
        while (wait := pace.wait_seconds(tokens, at)) > 1e-9:
            at += wait
        pace.take(tokens, at)
        gone.append((at, tokens))
    return gone


@given(CALLS, st.integers(1, 600), st.integers(60, 60_000))
def test_no_minute_sees_more_than_the_limits_and_their_burst(
    calls: list[tuple[int, float]], requests: int, tokens: int
) -> None:
    gone = went(Pace(requests, tokens, 0.0), calls)

    share = 1 + BURST_SECONDS / 60
    for start, _ in gone:
        within = [amount for at, amount in gone if start <= at < start + 60]
        assert len(within) <= requests * share + 1 + 1e-6
        # The last may be larger than what was left: it is paid off before the next one goes.
        assert sum(within[:-1]) <= tokens * share + max(within) + 1e-6


def test_without_limits_nothing_waits() -> None:
    pace = Pace(None, None, 0.0)

    for number in range(100):
        assert pace.wait_seconds(10_000, 0.001 * number) == 0
        pace.take(10_000, 0.001 * number)


def test_a_call_larger_than_the_burst_goes_once_the_bucket_is_full_and_is_paid_off() -> None:
    pace = Pace(None, 600, 0.0)  # ten a second, fifty at once

    pace.take(200, 0.0)
    assert pace.wait_seconds(50, 0.0) == pytest.approx(20.0)


def test_what_was_reserved_and_not_used_is_free_again() -> None:
    pace = Pace(None, 600, 0.0)
    pace.take(50, 0.0)
    assert pace.wait_seconds(30, 0.0) == pytest.approx(3.0)

    pace.settle(50, 10, 0.0)

    assert pace.wait_seconds(30, 0.0) == 0


def test_an_endpoint_that_asks_for_a_pause_gets_it() -> None:
    pace = Pace(None, None, 0.0)
    pace.hold(7.0, 0.0)
    pace.hold(3.0, 1.0)

    assert pace.wait_seconds(1, 2.0) == 5.0
    assert pace.wait_seconds(1, 7.0) == 0


def test_what_the_endpoint_says_is_left_is_all_that_goes_until_it_is_full_again() -> None:
    # given an endpoint that has 100 tokens left for the next 12 seconds
    pace = Pace(None, None, 0.0)
    pace.learn(Left(tokens=100, tokens_reset_seconds=12.0), 0.0)

    # then 60 go, and 60 more only when it is full again
    assert pace.wait_seconds(60, 0.0) == 0
    pace.take(60, 0.0)
    assert pace.wait_seconds(60, 0.0) == 12.0
    assert pace.wait_seconds(60, 12.0) == 0

    # and with no request left nothing goes
    pace.learn(Left(requests=0, requests_reset_seconds=2.0), 20.0)
    assert pace.wait_seconds(1, 20.0) == 2.0
    pace.learn(Left(requests=1, requests_reset_seconds=60.0), 22.0)
    assert pace.wait_seconds(1, 22.0) == 0

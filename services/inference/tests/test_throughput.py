"""Tests of what an engine's ended calls tell of its speed."""

import pytest

from services.inference.core.throughput import BEST_AFTER_SECONDS, Throughput


def a_steady_engine(seconds: int, *, tokens_each: int = 100, side_by_side: int = 4) -> Throughput:
    """Calls of a second each, so many side by side, one after another."""
    throughput = Throughput()
    for at in range(seconds):
        for _ in range(side_by_side):
            throughput.begin(tokens_each, float(at))
        for _ in range(side_by_side):
            throughput.end(tokens_each, tokens_each, at + 1.0)
    return throughput


def test_steady_work_is_told_as_its_rate() -> None:
    throughput = a_steady_engine(200)

    assert throughput.late(200.0) == pytest.approx(400, rel=0.05)
    assert throughput.best == pytest.approx(400, rel=0.05)


def test_of_an_engine_that_has_hardly_worked_nobody_knows_the_best() -> None:
    assert a_steady_engine(int(BEST_AFTER_SECONDS) - 1).best is None
    assert a_steady_engine(int(BEST_AFTER_SECONDS) + 1).best == pytest.approx(400, rel=0.1)


def test_idle_time_fades_the_late_rate_and_leaves_the_best() -> None:
    # given an engine that worked, and then did nothing for five minutes
    throughput = a_steady_engine(100)
    best = throughput.best

    # then little is left of late
    assert throughput.late(400.0) < 1
    # and its next call, on which it works for a moment, hardly changes its best
    throughput.begin(100, 400.0)
    throughput.end(100, 100, 400.2)
    assert throughput.best == pytest.approx(best, rel=0.01)


def test_what_is_in_the_engine_is_counted_with_what_it_may_take() -> None:
    throughput = Throughput()
    throughput.begin(500, 0.0)
    throughput.begin(300, 0.0)
    assert throughput.tokens_in_flight == 800

    throughput.end(500, 20, 1.0)

    assert throughput.tokens_in_flight == 300

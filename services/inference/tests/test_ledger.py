"""Tests of the account of an engine: it closes at any moment, shares by work, and nothing is ever negative."""

from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import TokenUsage
from services.inference.core.catalogue import HARDWARE, ModelShape
from services.inference.core.ledger import Call, Charge, EngineLedger
from services.inference.core.pricing import Rate
from services.inference.core.roofline import Roofline
from services.inference.core.weights import PRIOR, UNIT, Calibration, Weights, of_roofline

SECOND = 10**9
NOTHING = TokenUsage()
USAGE = st.just(NOTHING) | st.builds(
    TokenUsage,
    input=st.integers(0, 5000),
    cached_input=st.integers(0, 5000),
    output=st.integers(0, 2000),
    reasoning=st.integers(0, 2000),
)
RATE = st.builds(Rate, st.decimals(0, 100, allow_nan=False, places=5), st.integers(1, 16))


@dataclass
class Engine:
    """An engine whose clock the test moves."""

    ledger: EngineLedger
    at_ns: int
    inside: dict[int, Call] = field(default_factory=dict)
    charges: list[Charge] = field(default_factory=list)
    lost: int = 0

    def passes(self, nanoseconds: int, millijoules: int = 0) -> None:
        self.at_ns += nanoseconds
        self.ledger.advance(self.at_ns, millijoules)

    def begins(self, name: int) -> None:
        self.inside[name] = self.ledger.begin(self.at_ns)

    def ends(self, name: int, usage: TokenUsage) -> Charge:
        self.charges.append(self.ledger.end(self.inside.pop(name), self.at_ns, usage))
        return self.charges[-1]

    def is_cut_off(self, name: int) -> None:
        charge = self.ledger.abandon(self.inside.pop(name), self.at_ns)
        self.lost += charge.quanta

    def closes(self) -> None:
        """What the account promises at any moment."""
        sums = self.ledger.sums
        assert sums.total == self.ledger.rate.quanta(sums.elapsed_ns)
        assert sums.total == sums.idle + sums.attributed + sums.lost + sums.pending
        assert sums.attributed == sum(charge.quanta for charge in self.charges)
        assert sums.lost == self.lost
        assert min(sums.idle, sums.attributed, sums.lost, sums.pending, sums.busy_ns) >= 0
        assert all(min(charge.share_ns, charge.quanta, charge.millijoules) >= 0 for charge in self.charges)
        assert self.inside or sums.pending == 0


def an_engine(per_hour: str = "3600", **changes: int) -> Engine:
    return Engine(EngineLedger(Rate(Decimal(per_hour), **changes), 5 * SECOND), 5 * SECOND)


STEP = st.tuples(st.integers(0, 12), st.integers(0, 30 * SECOND), USAGE, st.booleans())


@given(RATE, st.lists(STEP, max_size=80), st.randoms(use_true_random=False))
def test_whatever_the_traffic_the_account_closes_to_the_last_digit(
    rate: Rate, script: list[tuple[int, int, TokenUsage, bool]], order: st.DrawFn
) -> None:
    # given calls that come and go, are cut off, overlap, and leave pauses
    engine = Engine(EngineLedger(rate, 0), 0)
    for name, elapsed_ns, usage, cut_off in script:
        engine.passes(elapsed_ns, elapsed_ns // 1000)
        if name not in engine.inside:
            engine.begins(name)
        elif cut_off:
            engine.is_cut_off(name)
        else:
            engine.ends(name, usage)
        engine.closes()

    # when the rest leaves, in any order
    names = sorted(engine.inside)
    order.shuffle(names)  # type: ignore[attr-defined]  # a random.Random, as hypothesis draws it
    for name in names:
        engine.ends(name, TokenUsage(output=name))
        engine.closes()

    # then every nanosecond and millijoule of the busy time was somebody's, or is known to be lost
    sums = engine.ledger.sums
    assert sums.attributed + sums.lost + sums.idle == sums.total
    if not engine.lost and not any(cut_off for *_, cut_off in script):
        assert sum(charge.share_ns for charge in engine.charges) == sums.busy_ns


@given(st.permutations(range(5)), st.lists(USAGE, min_size=5, max_size=5))
def test_the_order_of_ends_does_not_change_what_a_busy_interval_costs(
    ends: list[int], usages: list[TokenUsage]
) -> None:
    engine = an_engine()
    for name in range(5):
        engine.begins(name)
        engine.passes(SECOND // 7)

    for name in ends:
        engine.ends(name, usages[name])

    assert sum(charge.share_ns for charge in engine.charges) == engine.ledger.sums.busy_ns == 5 * (SECOND // 7)
    engine.closes()


def test_calls_side_by_side_share_by_what_they_did() -> None:
    # given an engine whose calls lately worked at one pace
    engine = an_engine()
    for _ in range(50):
        engine.begins(0)
        engine.passes(SECOND)
        engine.ends(0, TokenUsage(output=100))

    # when two overlap that work as much each
    engine.begins(1)
    engine.begins(2)
    engine.passes(2 * SECOND)
    one = engine.ends(1, TokenUsage(output=200))
    other = engine.ends(2, TokenUsage(output=200))

    # then each bears half of it
    assert (one.share_ns, other.share_ns) == (SECOND, SECOND)


def test_a_call_that_worked_four_times_as_much_bears_four_times_as_much() -> None:
    engine = an_engine()
    engine.begins(0)
    engine.passes(SECOND)
    engine.ends(0, TokenUsage(output=100))

    engine.begins(1)
    engine.begins(2)
    engine.passes(SECOND)
    small = engine.ends(1, TokenUsage(input=100))
    engine.ends(2, TokenUsage(output=100))

    # a prompt's token weighs a quarter of an answer's, by assumption; the estimate of the other one is near its work
    assert 0.18 < small.share_ns / SECOND < 0.3


def test_who_only_waited_beside_others_pays_next_to_nothing() -> None:
    engine = an_engine()
    engine.begins(1)
    engine.passes(10 * SECOND)
    engine.begins(2)
    engine.passes(1)

    assert engine.ends(2, TokenUsage(input=1)).share_ns < SECOND
    assert engine.ends(1, TokenUsage(output=1000)).share_ns > 9 * SECOND


def test_a_call_that_was_cut_off_bears_its_time_and_nobody_is_told() -> None:
    engine = an_engine()
    engine.begins(1)
    engine.begins(2)
    engine.passes(SECOND)

    engine.is_cut_off(1)
    engine.ends(2, TokenUsage(output=10))

    assert engine.lost == engine.ledger.sums.attributed == 500_000_000_000
    engine.closes()


def test_energy_while_nobody_is_there_is_nobodys() -> None:
    engine = an_engine()
    engine.passes(SECOND, 70_000)
    engine.begins(1)
    engine.passes(SECOND, 500_000)

    assert engine.ends(1, TokenUsage(output=1)).millijoules == 500_000
    assert engine.ledger.sums.millijoules == 570_000


def test_a_call_leaves_once() -> None:
    engine = an_engine()
    call = engine.ledger.begin(engine.at_ns)
    engine.ledger.end(call, engine.at_ns, NOTHING)

    with pytest.raises(ValueError, match="left the engine already"):
        engine.ledger.end(call, engine.at_ns, NOTHING)
    with pytest.raises(ValueError, match="time went back"):
        engine.ledger.advance(0)


def test_weights_follow_what_the_engine_shows() -> None:
    # given an engine that takes 1 ms for a prompt token and 20 ms for one of an answer, and traffic whose mix varies
    calibration = Calibration()
    for window in range(300):
        prompt, answer = 500 + 97 * (window % 7), 30 + 11 * (window % 5)
        calibration.observe(prompt * 0.001 + answer * 0.020, prompt, answer)

    # then the assumption gives way to it
    assert calibration.weights.prefill == pytest.approx(UNIT / 20, rel=0.05)


def test_traffic_that_tells_nothing_leaves_the_assumption() -> None:
    calibration = Calibration()
    for _ in range(300):
        calibration.observe(10.0, 1000, 100)
        calibration.observe(0.0, 10, 10)
        calibration.observe(5.0, 0, 0)

    assert calibration.weights.prefill == pytest.approx(PRIOR.prefill, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30))
def test_weights_stay_whole_and_positive(windows: list[tuple[float, int, int]]) -> None:
    calibration = Calibration()
    for window in windows:
        calibration.observe(*window)

    assert calibration.weights.prefill >= 1
    assert calibration.weights.cached >= 1
    assert calibration.weights.decode == UNIT


def test_a_roofline_says_that_decoding_weighs_more() -> None:
    roofline = Roofline(HARDWARE["h200-sxm"], ModelShape())

    weights = of_roofline(roofline, batch=32)

    assert 2 < weights.decode / weights.prefill < 20
    assert Weights.of(1.0, 0.0).prefill == 10 * UNIT

"""Owns the examples of breakers: when they open, what they try out, when they close; and of calls in flight."""

from penstock.workflow.tiers import Breaker, Route
from services.orchestrator.core.breakers import Breakers, Look, RouteEvent, TierRoute, tier_route

BREAKER = Breaker(calls_min=4, window_calls=10, window_seconds=60, open_seconds=30)
FREE, PROBE = Look(None, False, False), Look(None, True, False)


def a_route(breaker: Breaker = BREAKER, model: str = "first", in_flight_max: int | None = None) -> TierRoute:
    """A route of a pool."""
    return tier_route(Route(pool="small", model=model, in_flight_max=in_flight_max), breaker)


class Told:
    """Breakers that are told of one route's calls."""

    def __init__(self, route: TierRoute) -> None:
        self.breakers, self.route = Breakers(), route

    def call(self, at_ms: int, *, fails: bool = False, took_ms: int = 0) -> None:
        """A call that ends at a time."""
        begun_ms = at_ms - took_ms
        ended = RouteEvent(self.route, "failed" if fails else "answered", 0, at_ms, begun_ms)
        events = [RouteEvent(self.route, "asked", 0, begun_ms, begun_ms), ended]
        self.breakers.count(events)
        self.breakers.learn(events)

    def fail(self, times: int, at_ms: int = 0) -> None:
        """Calls that fail."""
        for _ in range(times):
            self.call(at_ms, fails=True)

    def look(self, at_ms: int) -> Look:
        """The route as it is."""
        return self.breakers.look(self.route, at_ms)


def test_it_opens_at_the_error_rate_and_not_before_enough_calls() -> None:
    told = Told(a_route())
    told.fail(3)
    assert told.look(0) == FREE

    told.fail(1, at_ms=500)

    assert told.look(500) == Look(30_500, False, False)
    assert told.look(30_499).free_at_ms == 30_500
    assert told.look(30_500) == PROBE


def test_it_stays_closed_below_the_error_rate() -> None:
    told = Told(a_route())
    for number in range(30):
        told.call(number, fails=number % 3 == 2)

    assert told.look(30) == FREE


def test_what_is_long_ago_or_many_calls_ago_no_longer_counts() -> None:
    long_ago, many_ago = Told(a_route()), Told(a_route())
    long_ago.fail(3)
    long_ago.fail(1, at_ms=60_001)
    for _ in range(10):
        many_ago.call(0)
    many_ago.fail(4)

    assert long_ago.look(60_001) == many_ago.look(0) == FREE


def test_slow_calls_open_it_too() -> None:
    told = Told(a_route(BREAKER.model_copy(update={"slow_call_seconds": 2.0, "slow_call_rate": 0.75})))
    for took_ms in (2_000, 2_001, 2_001, 2_001):
        assert told.look(9_000) == FREE
        told.call(9_000, took_ms=took_ms)

    assert told.look(9_000).free_at_ms == 39_000


def test_probes_that_go_well_close_it() -> None:
    told = Told(a_route(BREAKER.model_copy(update={"probes": 2})))
    told.fail(4)
    assert told.look(30_000) == PROBE
    told.call(30_000)
    assert told.look(30_000) == PROBE

    told.call(30_001)

    assert told.look(30_001) == FREE
    told.fail(3, at_ms=30_002)
    assert told.look(30_002) == FREE  # the window began anew


def test_a_probe_that_fails_opens_it_again() -> None:
    told = Told(a_route())
    told.fail(4)

    told.call(31_000, fails=True, took_ms=500)

    assert told.look(31_000).free_at_ms == 61_000


def test_only_as_many_probes_as_allowed_are_sent_until_they_should_be_back() -> None:
    told = Told(a_route())
    told.fail(4)

    told.breakers.count([RouteEvent(told.route, "asked", 0, 31_000, 31_000)])

    assert told.look(31_000) == Look(61_000, False, False)
    # Guard: one that never comes back does not keep it half open for ever.
    assert told.look(61_000) == PROBE
    assert told.breakers.look(told.route, 61_000, asked=1).free_at_ms == 91_000


def test_a_straggler_from_before_it_opened_says_nothing() -> None:
    told = Told(a_route())
    told.fail(4)

    told.call(31_000, took_ms=5_000)
    told.call(31_000, fails=True, took_ms=5_000)

    assert told.look(31_000).free_at_ms is None


def test_what_was_counted_and_not_written_is_taken_back() -> None:
    told = Told(a_route(in_flight_max=2))
    told.fail(4)
    undo = told.breakers.count([RouteEvent(told.route, "asked", 0, 31_000, 31_000)] * 2)
    assert told.breakers.in_flight("small/first") == 2

    told.breakers.uncount(undo)

    assert told.breakers.in_flight("small/first") == 0
    assert told.look(31_000) == PROBE


def test_an_instance_uses_its_share_of_what_may_be_in_flight() -> None:
    told = Told(a_route(in_flight_max=4))
    told.breakers.owned, told.breakers.homes = 1, 2
    asked = RouteEvent(told.route, "asked", 0, 0, 0)
    told.breakers.count([asked])
    assert not told.look(0).full

    told.breakers.count([asked])

    assert told.look(0).full


def test_calls_of_homes_that_moved_away_are_forgotten_and_answers_to_older_calls_take_nothing_away() -> None:
    told = Told(a_route())
    told.breakers.count([RouteEvent(told.route, "asked", home, 0, 0) for home in (0, 0, 1)])
    told.breakers.forget_homes([0])
    assert told.breakers.in_flight("small/first") == 1

    told.breakers.count([RouteEvent(told.route, "answered", 0, 0, 0)])

    assert told.breakers.in_flight("small/first") == 1


def test_each_breaker_counts_the_calls_that_it_is_for() -> None:
    one, other = a_route(), a_route(Breaker(calls_min=2))
    told = Told(one)
    told.fail(4)

    assert told.look(0) != FREE
    assert told.breakers.look(other, 0) == FREE
    assert told.breakers.look(a_route(model="second"), 0) == FREE

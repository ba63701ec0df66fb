"""Owns the examples of engines' room: what reports add up to, when they are void, when a route is crowded."""

from collections import deque
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.messages import Lane
from penstock.testkit.builders import BEGINNING_MS, a_report
from penstock.workflow.tiers import Breaker, Burst, Route
from services.orchestrator.core.breakers import Breakers, RouteEvent, TierRoute, tier_route
from services.orchestrator.core.rooms import FREE, Rooms

LABEL, SECOND = "small/first", 1_000
BURST = Burst(wait_seconds=10, standard_wait_seconds=20, leave_share=0.5, dwell_seconds=15)


def a_route(burst: Burst | None = BURST) -> TierRoute:
    """Our own route."""
    return tier_route(Route(pool="small", model="first"), Breaker(), burst)


def busy(engine: str = "engine-1", *, at_ms: int = BEGINNING_MS) -> Breakers:
    """An engine with four places of 100 tokens each, at 100 tokens a second: four seconds a call, one a second."""
    known = Breakers()
    known.rooms.take(a_report(engine, at_ms=at_ms, requests_in_flight=4, tokens_in_flight=400), at_ms)
    return known


def send(known: Breakers, calls: int, lane: Lane = Lane.STANDARD, at_ms: int = BEGINNING_MS) -> None:
    """Calls that are asked for."""
    known.count([RouteEvent(a_route(), "asked", 0, at_ms, at_ms, lane)] * calls)


def wait_ms(known: Breakers, lane: Lane = Lane.STANDARD) -> int:
    """How long a call is predicted to wait."""
    return known.crowd(a_route(), lane, BEGINNING_MS).wait_ms


def test_a_call_waits_for_those_that_do_not_fit_into_the_engines_before_it() -> None:
    known = busy()
    send(known, 3)
    assert wait_ms(known) == 1_000  # the engine says that four are in it

    send(known, 10)

    assert wait_ms(known) == (13 + 1 - 4) * 1_000
    room = known.rooms.find(LABEL)
    assert room is not None
    assert (room.engines, room.places, room.service_ms) == (1, 4, 4_000)


def test_engines_of_one_model_add_up() -> None:
    known = busy()
    own = {"requests_in_flight": 4, "tokens_in_flight": 400, "tokens_per_second_best": None, "requests_best": None}

    known.rooms.take(a_report("engine-2", **own), BEGINNING_MS)  # type: ignore[arg-type]  # fields of a report

    # Eight places; the one that has not worked enough to know is taken to be like the other.
    send(known, 15)
    assert wait_ms(known) == 8 * 500


def test_calls_that_are_less_urgent_are_not_waited_for() -> None:
    known = busy()
    send(known, 50, Lane.BATCH)
    send(known, 6, Lane.STANDARD)
    send(known, 2, Lane.INTERACTIVE)

    assert [wait_ms(known, lane) for lane in (Lane.INTERACTIVE, Lane.STANDARD, Lane.BATCH)] == [0, 5_000, 55_000]


def test_the_caches_room_bounds_the_places() -> None:
    known = Breakers()
    known.rooms.take(a_report(requests_in_flight=2, tokens_in_flight=2_000, kv_tokens_max=2_500), BEGINNING_MS)

    room = known.rooms.find(LABEL)

    assert room is not None
    assert room.places == 2


def test_what_a_call_takes_is_remembered_from_engines_that_idle_now() -> None:
    known = busy()
    known.rooms.take(a_report(), BEGINNING_MS)
    assert wait_ms(known) == 0

    send(known, 13)

    assert wait_ms(known) == 10_000


@pytest.mark.parametrize("unknown", ["requests_best", "tokens_per_second_best"])
def test_where_engines_do_not_know_nothing_is_crowded(unknown: str) -> None:
    known = Breakers()
    fields: dict[str, Any] = {"requests_in_flight": 4, "tokens_in_flight": 400, unknown: None}
    known.rooms.take(a_report(**fields), BEGINNING_MS)
    send(known, 1_000, Lane.INTERACTIVE)

    assert known.crowd(a_route(), Lane.INTERACTIVE, BEGINNING_MS) == FREE


def test_a_report_is_void_when_it_expires_and_an_engine_that_died_is_forgotten() -> None:
    rooms = Rooms()
    rooms.take(a_report("engine-1"), BEGINNING_MS)
    rooms.take(a_report("engine-2", at_ms=BEGINNING_MS + 20 * SECOND), BEGINNING_MS + 20 * SECOND)

    rooms.expire(BEGINNING_MS + 29 * SECOND)
    room = rooms.find(LABEL)
    assert room is not None
    assert room.engines == 2
    assert rooms.expire(BEGINNING_MS + 30 * SECOND) == {LABEL}

    room = rooms.find(LABEL)
    assert room is not None
    assert room.engines == 1
    rooms.expire(BEGINNING_MS + 50 * SECOND)
    assert rooms.find(LABEL) is None


def test_what_had_expired_before_it_was_read_is_not_taken() -> None:
    rooms = Rooms()

    rooms.take(a_report(), BEGINNING_MS + 30 * SECOND)

    assert rooms.find(LABEL) is None


@pytest.mark.parametrize("state", ["starting", "draining", "away", "stopped"])
def test_an_engine_that_takes_no_work_has_no_room(state: str) -> None:
    known = Breakers()
    known.rooms.take(a_report(state=state), BEGINNING_MS)

    look = known.look(a_route(), BEGINNING_MS)

    assert look.away
    known.rooms.take(a_report("engine-2"), BEGINNING_MS)
    assert not known.look(a_route(), BEGINNING_MS).away


def test_engines_that_another_model_is_on_say_nothing_of_this_one() -> None:
    known = Breakers()

    known.rooms.take(a_report(models=["second", "third"], state="away"), BEGINNING_MS)

    assert not known.look(a_route(), BEGINNING_MS).away
    assert known.rooms.find("small/third") is not None


def test_after_a_restart_what_engines_still_have_counts() -> None:
    # given an instance that has asked for nothing yet, and an engine with a queue
    known = Breakers()
    queue = a_report(requests_in_flight=4, tokens_in_flight=400, requests_waiting=20, tokens_waiting=2_000)

    known.rooms.take(queue, BEGINNING_MS)

    assert wait_ms(known) == 21_000


def test_other_instances_have_as_much_in_flight_for_each_home() -> None:
    known = busy()
    known.homes, known.owned = 4, 1
    send(known, 5)

    assert wait_ms(known) == (20 + 1 - 4) * 1_000


def test_a_change_that_was_not_written_is_taken_back() -> None:
    known = busy()
    send(known, 40)
    crowded = RouteEvent(a_route(), "crowded", 0, BEGINNING_MS, BEGINNING_MS)
    undo = known.count([crowded])
    assert not known.crowd(a_route(), Lane.STANDARD, BEGINNING_MS).changed

    known.uncount(undo)

    assert known.crowd(a_route(), Lane.STANDARD, BEGINNING_MS).changed


class Crowded:
    """A route whose predicted wait is given at each moment; changes are remembered as a batch would."""

    def __init__(self, burst: Burst) -> None:
        self.burst, self.route, self.known = burst, a_route(burst), busy()
        self.changes: list[tuple[int, bool]] = []

    def wait(self, seconds: float, at_ms: int) -> bool:
        """Whether calls go elsewhere with this wait."""
        rooms = self.known.rooms
        ahead = 3 + round(seconds)
        crowd = rooms.crowd(LABEL, self.burst, self.route.burst_key, Lane.STANDARD, ahead, at_ms)
        if crowd.changed:
            self.changes.append((at_ms, crowd.crowded))
            kind = "crowded" if crowd.crowded else "eased"
            self.known.count([RouteEvent(self.route, kind, 0, at_ms, at_ms)])  # type: ignore[arg-type]  # one of the two
        return crowd.crowded


def test_it_is_crowded_above_the_threshold_and_free_again_only_well_below_and_after_a_while() -> None:
    crowded = Crowded(BURST)
    assert not crowded.wait(20, 0)
    assert crowded.wait(21, 1_000)
    assert crowded.wait(0, 15_999)  # too soon
    assert crowded.wait(11, 16_000)  # not far enough below
    assert not crowded.wait(10, 16_000)
    assert not crowded.wait(90, 30_999)
    assert crowded.wait(90, 31_000)


@given(
    noise=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 60)), min_size=1, max_size=200),
    dwell_seconds=st.integers(0, 30),
    leave_share=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_under_noisy_load_it_never_changes_sooner_than_it_may_and_only_for_a_reason(
    noise: list[tuple[int, int]], dwell_seconds: int, leave_share: float
) -> None:
    # given a wait that jumps about
    burst = Burst(wait_seconds=10, standard_wait_seconds=20, leave_share=leave_share, dwell_seconds=dwell_seconds)
    crowded, at_ms = Crowded(burst), 0
    waits: dict[int, list[int]] = {}
    for elapsed_ms, seconds in noise:
        at_ms += elapsed_ms
        crowded.wait(seconds, at_ms)
        waits.setdefault(at_ms, []).append(seconds)

    # then changes alternate, stand apart as they must, and each had its wait beyond its own threshold
    assert [state for _, state in crowded.changes] == [number % 2 == 0 for number in range(len(crowded.changes))]
    for (before, _), (after, _) in pairwise(crowded.changes):
        assert after - before >= dwell_seconds * SECOND
    for at, state in crowded.changes:
        assert max(waits[at]) > 20 if state else min(waits[at]) <= 20 * leave_share


@given(st.lists(st.integers(11, 20), min_size=1, max_size=100))
def test_noise_between_the_thresholds_changes_nothing(waits: list[int]) -> None:
    free, crowded = Crowded(BURST), Crowded(BURST)
    crowded.wait(60, 0)

    for number, seconds in enumerate(waits):
        assert not free.wait(seconds, 60_000 * (number + 1))
        assert crowded.wait(seconds, 60_000 * (number + 1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.5, 1.5, 3.0]))
def test_load_that_goes_by_its_own_doing_settles_between_the_thresholds(seed: int, rate: float) -> None:
    # given an engine that takes a call a second, and more or less than that for ten minutes, at random moments
    arrivals, known, route, minutes_ms = Random(seed), busy(), a_route(), 600 * SECOND
    ends: deque[int] = deque()
    counts = {"own": 0, "burst": 0, "changes": 0}
    longest_ms, at_ms, free_ms = 0, 0, [0] * 4
    while at_ms < minutes_ms:
        at_ms += round(arrivals.expovariate(rate) * SECOND)
        # when each call goes where it is sent: into the first place that is free, for four seconds
        while ends and ends[0] <= at_ms:
            known.count([RouteEvent(route, "answered", 0, ends.popleft(), 0, Lane.INTERACTIVE)])
        known.rooms.take(a_report(at_ms=BEGINNING_MS + at_ms, requests_in_flight=min(4, len(ends))), BEGINNING_MS)
        crowd = known.crowd(route, Lane.INTERACTIVE, at_ms)
        if crowd.changed:
            counts["changes"] += 1
            kind = "crowded" if crowd.crowded else "eased"
            known.count([RouteEvent(route, kind, 0, at_ms, at_ms, Lane.INTERACTIVE)])  # type: ignore[arg-type]  # one of the two
        counts["burst" if crowd.crowded else "own"] += 1
        if not crowd.crowded:
            begin_ms = max(at_ms, free_ms.pop(0))
            longest_ms = max(longest_ms, begin_ms - at_ms)
            free_ms = sorted([*free_ms, begin_ms + 4 * SECOND])
            ends = deque(sorted([*ends, begin_ms + 4 * SECOND]))
            known.count([RouteEvent(route, "asked", 0, at_ms, at_ms, Lane.INTERACTIVE)])

    # then it changes over rarely, what is too much goes on, and nobody who stays waits for long
    assert counts["changes"] <= minutes_ms / (BURST.dwell_seconds * SECOND) + 1
    assert longest_ms <= (BURST.wait_seconds + 1.6 * BURST.dwell_seconds * rate) * SECOND
    total = counts["own"] + counts["burst"]
    if rate < 1:
        assert counts["burst"] < 0.1 * total
    else:
        assert abs(counts["burst"] / total - (1 - 1 / rate)) < 0.2

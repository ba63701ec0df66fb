"""Properties of the order in which requests go into an engine."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.contracts.messages import Lane
from services.inference.core.schedule import DEBT_QUANTA_MAX, SHARES, STALE_MAX, Schedule, Waiting, _Soonest

FAR_MS = 1e12
COST_MAX = 5_000


def waiting(
    item: int, lane: Lane = Lane.BATCH, tenant: str = "t", cost: int = 100, deadline_ms: float = FAR_MS
) -> Waiting[int]:
    return Waiting(item, lane, tenant, cost, deadline_ms, service_ms=1_000.0)


def everything_fits(_: Waiting[int]) -> bool:
    return True


def drained(schedule: Schedule[int], now_ms: float = 0.0) -> list[Waiting[int]]:
    taken = []
    while (next_one := schedule.take(now_ms, everything_fits)) is not None:
        taken.append(next_one)
    return taken


@dataclass(frozen=True)
class Offer:
    lane: Lane
    tenant: str
    cost: int
    deadline_ms: float


offers = st.builds(
    Offer,
    st.sampled_from(Lane),
    st.sampled_from("abcde"),
    st.integers(1, COST_MAX),
    st.one_of(st.just(FAR_MS), st.floats(0, 10_000)),
)
moves = st.lists(st.one_of(offers, st.integers(1, 5)), max_size=150)


@settings(max_examples=200, deadline=None)
@given(moves=moves, room=st.integers(1, COST_MAX))
def test_nothing_is_lost_or_given_twice_and_room_is_kept(moves: list[Offer | int], room: int) -> None:
    """Whatever comes in whatever order: everything comes out once; nothing that does not fit, unless it lapsed."""
    schedule, offered, taken, now_ms = Schedule[int](), 0, Counter[int](), 0.0
    for move in moves:
        if isinstance(move, Offer):
            schedule.offer(waiting(offered, move.lane, move.tenant, move.cost, move.deadline_ms))
            offered += 1
            continue
        now_ms += 100.0 * move
        for _ in range(move):
            given_out = schedule.take(now_ms, lambda each: each.cost <= room)
            if given_out is not None:
                taken[given_out.item] += 1
                assert given_out.cost <= room or given_out.deadline_ms <= now_ms
        assert len(schedule) == offered - taken.total() == sum(schedule.count(lane) for lane in Lane)
    taken.update(each.item for each in drained(schedule, now_ms))
    assert taken == Counter(range(offered))
    assert sum(schedule.tokens(lane) for lane in Lane) == 0


@settings(max_examples=100, deadline=None)
@given(moves=st.lists(offers, max_size=120))
def test_it_keeps_the_engine_at_work(moves: list[Offer]) -> None:
    """Where all fits, something is given as long as anything waits."""
    schedule = Schedule[int]()
    for number, offer in enumerate(moves):
        schedule.offer(waiting(number, offer.lane, offer.tenant, offer.cost, offer.deadline_ms))
    for left in range(len(moves), 0, -1):
        assert len(schedule) == left
        assert schedule.take(5_000.0, everything_fits) is not None


@settings(max_examples=100, deadline=None)
@given(moves=st.lists(offers, max_size=120))
def test_a_tenants_requests_stay_in_order_while_none_is_at_risk(moves: list[Offer]) -> None:
    schedule = Schedule[int]()
    for number, offer in enumerate(moves):
        schedule.offer(waiting(number, offer.lane, offer.tenant, offer.cost))
    order = defaultdict(list)
    for each in drained(schedule):
        order[each.lane, each.tenant].append(each.item)
    assert all(items == sorted(items) for items in order.values())


@settings(max_examples=30, deadline=None)
@given(
    costs=st.lists(st.tuples(st.sampled_from(Lane), st.integers(1, COST_MAX)), min_size=200, max_size=400),
)
def test_a_lane_that_has_work_gets_its_share_and_a_request_beside_it_no_more(costs: list[tuple[Lane, int]]) -> None:
    """All lanes are always backlogged: at any moment a lower lane is behind its share by three requests at most."""
    schedule, number = Schedule[int](), 0
    for lane in Lane:
        for _ in range(3):
            schedule.offer(waiting(number, lane, cost=COST_MAX))
            number += 1
    given_out: Counter[Lane] = Counter()
    for lane_cost in costs:
        taken = schedule.take(0.0, everything_fits)
        assert taken is not None
        given_out[taken.lane] += taken.cost
        schedule.offer(waiting(number, taken.lane, cost=lane_cost[1]))
        number += 1
        for lane, share in SHARES.items():
            assert given_out[lane] >= share * given_out.total() - 3 * COST_MAX
            assert given_out[lane] <= share * given_out.total() + 3 * COST_MAX


@settings(max_examples=100, deadline=None)
@given(flood=st.integers(1, COST_MAX), small=st.integers(1, COST_MAX), tight=st.booleans(), others=st.integers(1, 4))
def test_a_flood_leaves_the_others_their_equal_part(flood: int, small: int, tight: bool, others: int) -> None:
    """One tenant always has work, even at risk all the time: another that has work gets as many tokens, but for a few
    requests of the largest size."""
    schedule = Schedule[int]()
    deadline_ms = 1_500.0 if tight else FAR_MS  # a service time of 1 s: at risk from the beginning
    for number in range(400):
        schedule.offer(waiting(number, tenant="flood", cost=flood, deadline_ms=deadline_ms))
        for other in range(others):
            schedule.offer(waiting(number, tenant=f"other-{other}", cost=small))
    given_out: Counter[str] = Counter()
    left = Counter({f"other-{other}": 400 for other in range(others)})
    while min(left.values()) > 0 and given_out["flood"] < 400 * flood:
        taken = schedule.take(0.0, everything_fits)
        assert taken is not None
        given_out[taken.tenant] += taken.cost
        if taken.tenant in left:
            left[taken.tenant] -= 1
        for other in range(others):
            share = given_out[f"other-{other}"]
            assert given_out["flood"] <= share + (DEBT_QUANTA_MAX + 3) * max(flood, small)


def test_a_tenant_that_comes_anew_is_served_before_a_backlog() -> None:
    schedule = Schedule[int]()
    for number in range(1_000):
        schedule.offer(waiting(number, tenant="flood"))
    for _ in range(3):
        schedule.take(0.0, everything_fits)
    schedule.offer(waiting(1_000, tenant="small"))

    taken = schedule.take(0.0, everything_fits)

    assert taken is not None
    assert taken.tenant == "small"


def test_an_urgent_request_behind_a_backlog_is_the_next() -> None:
    """Given 10,000 batch requests, some of them served, when an interactive one comes, then it is the next."""
    schedule = Schedule[int]()
    for number in range(10_000):
        schedule.offer(waiting(number, tenant=f"t{number % 7}"))
    for _ in range(500):
        schedule.take(0.0, everything_fits)
    schedule.offer(waiting(-1, Lane.INTERACTIVE, cost=COST_MAX))

    taken = schedule.take(0.0, everything_fits)

    assert taken is not None
    assert taken.item == -1


def test_least_slack_first_among_those_at_risk() -> None:
    """Given service times of 1 s, when some have under 2 s left, then the tightest goes first, the lost do not."""
    schedule = Schedule[int]()
    for number, deadline_ms in enumerate([FAR_MS, 60_000, 11_900, 11_500, 10_900]):
        schedule.offer(waiting(number, deadline_ms=deadline_ms))

    order = [each.item for each in drained(schedule, now_ms=10_000.0)]

    assert order == [3, 2, 0, 1, 4]  # the last has 0.9 s for a service of 1 s: it goes where it stands


def test_what_nobody_awaits_any_more_is_given_at_once_and_needs_no_room() -> None:
    schedule = Schedule[int]()
    schedule.offer(waiting(0))
    schedule.offer(waiting(1, deadline_ms=5.0))

    lapsed = schedule.take(5.0, lambda _: False)

    assert lapsed is not None
    assert lapsed.item == 1
    assert schedule.take(5.0, lambda _: False) is None


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    """Given no room for the batch lane's head, when urgent ones keep coming, then they pass until it is owed twice."""
    schedule = Schedule[int]()
    schedule.offer(waiting(-1, Lane.BATCH, cost=1_000))
    passed = 0
    for number in range(1_000):
        schedule.offer(waiting(number, Lane.INTERACTIVE, cost=100))
        taken = schedule.take(0.0, lambda each: each.cost < 1_000)
        if taken is None:
            break
        passed += taken.cost

    assert 1_000 / 0.1 <= passed <= 2 * 1_000 / 0.1 + 100
    next_one = schedule.take(0.0, everything_fits)
    assert next_one is not None
    assert next_one.item == -1


def test_heaps_forget_what_was_taken_otherwise() -> None:
    """Given deadlines far away, when a million requests pass, then what is remembered of them stays small."""
    soonest = _Soonest[int]()
    for number in range(10_000):
        each = waiting(number)
        soonest.push(1e9, each, alive=1)
        each.taken = True
    assert len(soonest._heap) <= STALE_MAX + 3


@given(moves=st.lists(offers, min_size=1, max_size=60), withdrawn=st.sets(st.integers(0, 59)))
def test_who_is_withdrawn_is_not_taken_and_leaves_no_trace(moves: list[Offer], withdrawn: set[int]) -> None:
    """Given a schedule, when some are withdrawn, once or twice, then the others come out in the order they had."""
    schedule, without = Schedule[int](), Schedule[int]()
    for number, move in enumerate(moves):
        one = waiting(number, move.lane, "t", 100, FAR_MS)
        schedule.offer(one)
        if number in withdrawn:
            schedule.withdraw(one)
            schedule.withdraw(one)
        else:
            without.offer(waiting(number, move.lane, "t", 100, FAR_MS))

    assert len(schedule) == len(without)
    assert [schedule.tokens(lane) for lane in Lane] == [without.tokens(lane) for lane in Lane]
    assert [each.item for each in drained(schedule)] == [each.item for each in drained(without)]

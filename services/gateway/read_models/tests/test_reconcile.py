"""Tests of closing the ledger against engine time: every second of an accelerator is in exactly one column."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.gateway.read_models.reconcile import DOWN_SECONDS_MAX, Life, PoolAccount, reconciled

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NOW = NOON + timedelta(hours=2)
MINUTE_NS = 60 * 10**9


def said(*values: Any) -> tuple[Any, ...]:
    """Amounts beside whole numbers, which types would keep apart."""
    return values


def a_life(number: int, begin: float, end: float, **changes: Any) -> Life:
    """An accelerator at 3600 an hour, so that a second costs 1: idle for the first half, busy for the second."""
    half = Decimal(str((end - begin) / 2))
    fields: dict[str, Any] = {
        "engine_session": UUID(int=number),
        "engine": "e",
        "pool": "small",
        "simulated": False,
        "gpu_type": "h200-sxm",
        "gpus": 1,
        "price_per_hour": Decimal(3600),
        "currency": "USD",
        "since": NOON + timedelta(seconds=begin),
        "until": NOON + timedelta(seconds=end),
        "stretches": 3,
        "last_sequence": 2,
        "stretch_ns_max": MINUTE_NS,
        "ns": round((end - begin) * 10**9),
        "total": half * 2,
        "idle": half,
        "attributed": half,
        "lost": Decimal(0),
        "pending": Decimal(0),
        "closed": True,
        "usage_requests": 5,
        "usage_cost": half,
        "repeated_requests": 0,
        "repeated_cost": Decimal(0),
        "usage_last_at": NOON + timedelta(seconds=end),
    }
    return Life(**{**fields, **changes})


def only(*lives: Life, now: datetime = NOW) -> PoolAccount:
    (pool,) = reconciled(lives, now)
    assert pool.attributed + pool.idle + pool.lost + pool.down + pool.pending == pool.bill + pool.difference
    return pool


def test_a_life_that_was_closed_adds_up() -> None:
    pool = only(a_life(1, 0, 100))

    assert said(pool.bill, pool.attributed, pool.idle, pool.difference) == (100, 50, 50, 0)
    assert pool.gpu_hours * 3600 == 100
    assert pool.accounts[0].state == "closed"


@pytest.mark.parametrize(("usage", "difference"), [(Decimal(49), -1), (Decimal(51), 1)])
def test_usage_that_was_lost_or_told_twice_shows(usage: Decimal, difference: int) -> None:
    assert only(a_life(1, 0, 100, usage_cost=usage)).difference == difference


def test_work_done_again_is_lost_and_no_difference() -> None:
    pool = only(a_life(1, 0, 100, usage_cost=Decimal(40), repeated_cost=Decimal(10)))

    assert said(pool.attributed, pool.lost, pool.difference) == (40, 10, 0)


def test_what_a_killed_life_did_and_nobody_was_told_is_lost() -> None:
    # given a life that told its last stretch at 100, with 10 pending, and whose usage goes on to 130
    life = a_life(
        1,
        0,
        100,
        closed=False,
        attributed=Decimal(40),
        pending=Decimal(10),
        usage_cost=Decimal(55),
        usage_last_at=NOON + timedelta(seconds=130),
    )

    pool = only(life)

    # then it lived to 130, and what neither usage nor idle time explains is lost
    assert said(pool.bill, pool.attributed, pool.idle, pool.lost, pool.difference) == (130, 55, 50, 25, 0)
    assert pool.accounts[0].state == "lost"


def test_usage_may_prove_a_little_more_time_than_was_told() -> None:
    pool = only(a_life(1, 0, 100, closed=False, usage_cost=Decimal("50.001")))

    assert said(pool.bill, pool.lost) == (Decimal("100.001"), 0)


def test_a_life_that_still_tells_has_pending_cost() -> None:
    # its usage is ahead of its account, which says nothing yet
    life = a_life(
        1, 0, 100, closed=False, attributed=Decimal(40), pending=Decimal(10), usage_cost=Decimal(48), stretches=2
    )

    pool = only(life, now=NOON + timedelta(seconds=200))

    assert said(pool.attributed, pool.pending, pool.difference) == (40, 10, 0)
    assert (pool.accounts[0].state, pool.missing) == ("open", 1)


def test_an_accelerator_between_two_lives_is_down() -> None:
    # given one that was killed and came back, another that was replaced before it went, and one that came back late
    killed = a_life(1, 0, 100, closed=False, usage_cost=Decimal(50))
    back = a_life(2, 112, 200)
    replaced, replacement = a_life(3, 0, 90), a_life(4, 80, 205)
    late = a_life(5, 206 + DOWN_SECONDS_MAX, 306 + DOWN_SECONDS_MAX)

    pool = only(killed, back, replaced, replacement, late)

    # then the gap after the first is on the bill, once
    assert pool.down == 12
    assert pool.bill == 100 + 88 + 90 + 125 + 100 + 12
    assert {account.engine_session.int: int(account.down) for account in pool.accounts} == {
        1: 12,
        2: 0,
        3: 0,
        4: 0,
        5: 0,
    }


def test_one_gap_is_paid_for_once_when_two_lives_follow() -> None:
    pool = only(a_life(1, 0, 100), a_life(2, 110, 200), a_life(3, 120, 220))

    assert pool.down == 10


def test_eight_accelerators_cost_eight_times_as_much() -> None:
    eight = Decimal(8)
    money = {name: eight * 50 for name in ("idle", "attributed", "usage_cost")}
    first = a_life(1, 0, 100, gpus=8, total=eight * 100, **money)

    pool = only(first, a_life(2, 110, 210, gpus=8, total=eight * 100, **money))

    assert said(pool.bill, pool.down) == (8 * 210, 80)


def test_usage_of_an_engine_that_never_told_its_time_is_a_difference() -> None:
    nothing: dict[str, Any] = {
        name: None for name in Life.__slots__ if name not in ("engine_session",) and "usage" not in name
    }
    nothing |= {"repeated_requests": 0, "repeated_cost": Decimal(0)}

    pool = only(a_life(1, 0, 10, **nothing, usage_cost=Decimal(3)))

    assert said(pool.difference, pool.accounts[0].state) == (3, "unmetered")

"""Owns the examples of bursts: which calls go on when engines are behind, what that costs, and what is said of it."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.messages import Budget, InferenceRequested, Lane, Money, NextMove
from penstock.testkit.builders import BEGINNING, BEGINNING_MS, a_chain, a_model, a_report, tokens
from penstock.workflow.tiers import Breaker, Route
from services.orchestrator.core.allowance import Allowance, day_of
from services.orchestrator.core.breakers import Breakers, RouteEvent, tier_route
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.state import Amounts
from services.orchestrator.core.tests.conversation import Conversation, only_money

SECOND = 1_000
PRICE = {"input_per_million": "100", "output_per_million": "1000"}
CALL = a_model("say", prompt="x" * 100, max_tokens=100)
"""Costs 0.1066 USD at most on the managed route."""
SETTINGS = {"wait_seconds": 2, "standard_wait_seconds": 20}
OURS: dict[str, Any] = {"pool": "small", "model": "first"}
MANAGED: dict[str, Any] = {"pool": "managed", "model": "second", "price": PRICE}
TIER: dict[str, Any] = {"routes": [OURS, MANAGED], "burst": SETTINGS}


def behind(seconds: int, *, lane: Lane = Lane.BATCH, **report: Any) -> Breakers:
    """What is known of the first route: so many seconds until an engine has a place for a call of the lane."""
    known = Breakers()
    own = tier_route(Route(pool="small", model="first"), Breaker())
    known.rooms.take(a_report(requests_in_flight=4, tokens_in_flight=400, **report), BEGINNING_MS)
    known.count([RouteEvent(own, "asked", 0, BEGINNING_MS, BEGINNING_MS, lane)] * (3 + seconds))
    return known


def day(cost: str = "1", left: str | None = None, currency: str = "USD") -> Allowance:
    """What the tenant may spend on bursts."""
    caps = Budget(cost=Money(amount=Decimal(cost), currency=currency))
    return Allowance("burst/default", caps, {} if left is None else {"cost": Decimal(left)})


def a_talk(
    known: Breakers,
    step: dict[str, Any] = CALL,
    burst: Allowance | None = None,
    tier: dict[str, Any] = TIER,
    **run: Any,
) -> Conversation:
    """A run on a tier whose first route is our own."""
    return Conversation(step, tiers={"small": tier}, facts=Facts(routes=known, burst=burst), **run)


def taken(talk: Conversation) -> list[tuple[str, str | None]]:
    """The models that the last decision asks, and why."""
    reasons = {change["step"]: change.get("route_reason") for change in talk.last.changes}
    return [
        (request.model, reasons[request.step])
        for request in talk.last.requests
        if isinstance(request, InferenceRequested)
    ]


@pytest.mark.parametrize(
    ("lane", "seconds", "model"),
    [
        (Lane.INTERACTIVE, 2, "first"),
        (Lane.INTERACTIVE, 3, "second"),
        (Lane.STANDARD, 20, "first"),
        (Lane.STANDARD, 21, "second"),
        (Lane.BATCH, 3_000, "first"),
    ],
)
def test_interactive_calls_burst_first_standard_ones_later_and_batch_calls_never(
    lane: Lane, seconds: int, model: str
) -> None:
    talk = a_talk(behind(seconds, lane=lane), priority=lane)

    ((asked, reason),) = taken(talk)

    assert asked == model
    assert reason == (f"burst: small/first is {seconds}.0 s behind" if model == "second" else None)
    assert talk.run.steps["say"].route_reason == reason


def test_calls_go_back_once_the_engines_have_caught_up_and_not_before() -> None:
    # given interactive runs that burst
    known = behind(3, lane=Lane.INTERACTIVE)
    first = a_talk(known, priority=Lane.INTERACTIVE)
    assert taken(first)[0][0] == "second"
    event = first.last.route_events[0]
    assert (event.kind, event.lane) == ("crowded", Lane.INTERACTIVE)

    # when the queue is a second long
    own = tier_route(Route(pool="small", model="first"), Breaker())
    known.count([RouteEvent(own, "answered", 0, BEGINNING_MS, BEGINNING_MS, Lane.INTERACTIVE)] * 2)

    # then the next one still does, until fifteen seconds have passed
    step = a_chain(CALL, a_model("again"), a_model("later"))
    talk = a_talk(known, step, priority=Lane.INTERACTIVE)
    assert taken(talk)[0][0] == "second"
    talk.now_ms += 14 * SECOND
    talk.succeed("main/say", "yes")
    assert taken(talk)[0][0] == "second"
    talk.now_ms += 1 * SECOND
    talk.succeed("main/again", "yes")
    assert taken(talk) == [("first", None)]
    assert "eased" in {event.kind for event in talk.last.route_events}


@pytest.mark.parametrize(
    ("deadline_seconds", "model"),
    [(64, "first"), (63, "second"), (4, "second"), (3, "first")],
    ids=["in time", "too late for it", "just in time alone", "too late anyway"],
)
def test_a_batch_call_bursts_only_where_its_deadline_is_at_risk_and_could_be_held(
    deadline_seconds: int, model: str
) -> None:
    # given an engine that is a minute behind, where a call takes four seconds
    deadline = BEGINNING + timedelta(seconds=deadline_seconds)
    talk = a_talk(behind(60), priority=Lane.BATCH, deadline=deadline)

    ((asked, reason),) = taken(talk)

    assert asked == model
    if model == "second":
        assert reason == "burst: small/first is 60.0 s behind, too late for the deadline"


def test_a_call_that_would_be_late_without_any_wait_gains_nothing_elsewhere() -> None:
    talk = a_talk(behind(-3), priority=Lane.BATCH, deadline=BEGINNING + timedelta(seconds=1))

    assert taken(talk) == [("first", None)]


def test_without_the_setting_a_tier_never_bursts() -> None:
    tier = {"routes": TIER["routes"]}

    assert taken(a_talk(behind(900, lane=Lane.INTERACTIVE), tier=tier, priority=Lane.INTERACTIVE)) == [("first", None)]


def test_where_engines_report_nothing_the_calls_in_flight_decide() -> None:
    tier = {**TIER, "routes": [OURS | {"in_flight_max": 9}, MANAGED]}
    known = behind(6, lane=Lane.INTERACTIVE)
    known.rooms.expire(BEGINNING_MS + 30 * SECOND)

    talk = a_talk(known, tier=tier, priority=Lane.INTERACTIVE)

    assert taken(talk) == [("second", "in_flight_max")]


def test_calls_of_one_event_know_of_each_other() -> None:
    many = {"id": "many", "parallel": {"map": "range(9)", "do": a_model("say")}}
    known = behind(-3)

    talk = a_talk(known, many, priority=Lane.INTERACTIVE)

    # Four have a place, of the next ones two wait no longer than they may.
    assert [model for model, _ in taken(talk)] == ["first"] * 6 + ["second"] * 3
    assert sum(event.kind == "crowded" for event in talk.last.route_events) == 1


def test_a_call_that_bursts_is_charged_to_the_day_and_settled_by_its_answer() -> None:
    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), burst=day(), priority=Lane.INTERACTIVE)
    today = day_of(BEGINNING_MS)
    needed = Amounts(1, 166, Decimal("0.1066"))
    assert talk.last.burst_charges == ((today, needed),)

    talk.succeed("say", "yes", **tokens(10, 5, "0.001"))

    assert talk.last.burst_charges == ((today, Amounts(1, 15, Decimal("0.001")) - needed),)


@pytest.mark.parametrize("over", [False, True], ids=["while its run goes on", "after the end of its run"])
def test_a_burst_that_was_given_up_is_settled_by_its_late_answer(over: bool) -> None:
    # given a call that was sent on, and timed out
    call = a_model("say", prompt="x" * 100, max_tokens=100, timeout_seconds=2)
    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), call, day(), priority=Lane.INTERACTIVE)
    needed = talk.last.burst_charges[0][1]
    talk.ring()
    talk.ring()
    assert talk.asked() == ["say#2"]
    if over:
        talk.cancel()

    # when its answer comes a day later
    talk.now_ms += 86_400_000
    decision = talk.succeed("say", "late", **tokens(10, 5, "0.001"))

    # then the day on which it was asked for gets back what it did not use, once
    assert only_money(decision)
    assert decision.burst_charges == ((day_of(BEGINNING_MS), Amounts(1, 15, Decimal("0.001")) - needed),)
    assert talk.succeed("say", "late", **tokens(10, 5, "0.001")).burst_charges == ()


def test_a_late_answer_of_our_own_engines_gives_nothing_back_to_the_day_for_bursts() -> None:
    talk = a_talk(behind(-3), burst=day(), priority=Lane.INTERACTIVE)
    talk.cancel()

    assert talk.succeed("say", "late", **tokens(10, 5, "0.001")).burst_charges == ()


def test_a_burst_that_never_answers_stays_charged_and_one_that_is_unmade_does_not() -> None:
    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), burst=day(), priority=Lane.INTERACTIVE)
    talk.cancel()
    assert talk.last.burst_charges == ()

    pair = {"id": "both", "parallel": {"sections": [CALL, a_model("bad", prompt="{{ input.nothing }}")]}}
    unmade = a_talk_unsound(behind(3, lane=Lane.INTERACTIVE), pair)
    assert unmade.last.requests == []
    assert sum((amounts.cost for _, amounts in unmade.last.burst_charges), Decimal(0)) == 0
    assert unmade.last.burst_charges != ()


def a_talk_unsound(known: Breakers, step: dict[str, Any]) -> Conversation:
    """A run whose definition no publisher would have let through."""

    class Unsound(Conversation):
        only_sound = False

    return Unsound(step, tiers={"small": TIER}, facts=Facts(routes=known, burst=day()), priority=Lane.INTERACTIVE)


@pytest.mark.parametrize("burst", [day(left="0.1065"), day(currency="EUR")], ids=["used up", "another currency"])
def test_what_the_day_has_no_money_for_waits_for_our_own_engines(burst: Allowance) -> None:
    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), burst=burst, priority=Lane.INTERACTIVE)

    ((model, reason),) = taken(talk)

    assert model == "first"
    assert reason == (
        "burst_budget: small/first is 3.0 s behind, and what the tenant may spend on bursts today is used up"
    )
    assert talk.model_call().pool == "small"
    assert talk.last.burst_charges == ()
    known = talk.facts.routes
    assert known is not None
    assert known.in_flight("managed/second") == 0


def test_calls_of_one_event_share_what_is_left_of_the_day() -> None:
    many = {"id": "many", "parallel": {"map": "range(4)", "do": CALL}}

    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), many, day(left="0.25"), priority=Lane.INTERACTIVE)

    assert [model for model, _ in taken(talk)] == ["second", "second", "first", "first"]


def test_a_burst_that_is_tried_again_is_still_one() -> None:
    retried = a_model("say", prompt="x" * 100, max_tokens=100, retry={"attempts": 3})
    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), retried, day(), priority=Lane.INTERACTIVE)

    talk.fail("say", NextMove.RETRY_AFTER)
    talk.ring()

    ((model, reason),) = taken(talk)
    assert model == "second"
    assert reason == "burst: small/first is 3.0 s behind"
    assert talk.last.burst_charges != ()


def test_engines_that_take_no_work_are_passed_by_although_their_breaker_is_closed() -> None:
    talk = a_talk(behind(-3, state="away"), priority=Lane.BATCH)

    assert taken(talk) == [("second", "engine_away")]


def test_with_no_other_route_a_call_waits_for_the_engines_to_come_back() -> None:
    talk = a_talk(behind(-3, state="starting"), tier={"routes": [OURS]})

    assert taken(talk) == [("first", "engine_away")]


def test_a_repair_goes_to_the_same_model_however_far_behind_it_is() -> None:
    known = behind(-3)
    talk = a_talk(known, priority=Lane.INTERACTIVE)
    own = tier_route(Route(pool="small", model="first"), Breaker())
    known.count([RouteEvent(own, "asked", 0, BEGINNING_MS, BEGINNING_MS, Lane.INTERACTIVE)] * 99)

    talk.fail("say", NextMove.REPAIR_OUTPUT)

    assert taken(talk) == [("first", None)]


def test_with_all_routes_behind_or_full_a_call_stays_with_the_first() -> None:
    tier = {**TIER, "routes": [OURS, MANAGED | {"in_flight_max": 1}]}
    both = {"id": "both", "parallel": {"map": "range(2)", "do": a_model("say")}}

    talk = a_talk(behind(3, lane=Lane.INTERACTIVE), both, tier=tier, priority=Lane.INTERACTIVE)

    assert [model for model, _ in taken(talk)] == ["second", "first"]
    assert taken(talk)[1][1] == "all_full"

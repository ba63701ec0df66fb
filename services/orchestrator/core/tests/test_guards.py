"""Owns the examples that hold one guard of the core each, where no story about a block does."""

from decimal import Decimal

from penstock.contracts.messages import Budget, NextMove, RunUsage
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_child_run, a_model, a_task
from penstock.workflow.tiers import Breaker, Route
from services.orchestrator.core.allowance import Allowance
from services.orchestrator.core.breakers import Breakers, RouteEvent, tier_route
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.state import NOTHING
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.values import VALUE_BYTES_MAX


def test_a_failure_that_is_final_is_told_in_its_own_words() -> None:
    talk = Conversation(a_task("work", retry={"attempts": 3}))

    talk.fail("work", NextMove.GIVE_UP, message="no such file")

    assert talk.run.error is not None
    assert talk.run.error.message == "no such file"


def test_an_output_that_is_too_large_fails_its_own_step() -> None:
    talk = Conversation(a_chain(a_task("work"), a_task("next")))

    talk.succeed("main/work", "x" * VALUE_BYTES_MAX)

    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("value_too_large", "main/work")


def test_a_call_that_is_never_sent_leaves_its_reservation_to_others() -> None:
    # given a block whose model call is made and unmade by one event, in a best effort that makes do with it
    both = {"sections": [a_model("unsent"), a_task("bad", input="{{ input.missing }}")]}
    outer = {"sections": [{"id": "both", "parallel": both}, a_task("slow")], "join": "best_effort"}
    talk = Conversation({"id": "all", "parallel": outer}, budget=Budget(tokens=10_000))
    # then nothing of it stays reserved
    assert talk.asked() == ["all/slow#1"]
    live = talk.run.live
    assert live is not None
    assert live.account is not None
    assert (live.account.reserved, live.account.spent) == (NOTHING, NOTHING)


def test_attempts_are_counted_over_a_restart() -> None:
    """Guard: every decision is made by a run restored from its rows, too."""
    talk = Conversation(a_chain(a_task("one"), a_task("two"), a_task("three")), steps_max=2)
    talk.succeed("main/one")

    talk.succeed("main/two")

    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("steps_exceeded", "main/three")


def test_a_run_that_is_over_has_no_step_that_waits() -> None:
    talk = Conversation({"id": "all", "parallel": {"sections": [a_task("one"), a_task("two")]}})

    talk.cancel()

    assert {step.phase.value for step in talk.run.steps.values()} == {"cancelled"}
    assert {step.due_at_ms for step in talk.run.steps.values()} == {None}


def test_a_child_that_ended_is_not_cancelled_when_another_is_asked_for_or_the_run_ends() -> None:
    talk = Conversation(a_child_run("review", retry={"attempts": 3, "initial_ms": 1_000}))
    failure = {"code": "broken", "message": "it broke"}
    talk.child_ended("review", status="failed", error=failure)
    talk.ring()
    talk.child_ended("review", attempt=2, status="failed", error=failure)
    assert talk.run.steps["review"].phase.value == "retrying"

    talk.cancel()

    assert talk.given_up == []


def test_a_childs_end_is_paid_once_however_often_it_is_told() -> None:
    talk = Conversation(a_chain(a_child_run("review"), a_task("next")))
    used = RunUsage.model_validate({"model_calls": 2, "cost": {"amount": "0.5", "currency": "USD"}})
    talk.child_ended("main/review", 1, usage=used)

    talk.child_ended("main/review", 2, usage=used)

    assert (talk.run.usage.model_calls, talk.run.usage.cost) == (2, Decimal("0.5"))


def test_a_missed_quorum_names_the_first_failure_by_its_place_with_or_without_a_restart() -> None:
    """Guard: which branch failed first is not in the rows."""
    docs = {"id": "docs", "parallel": {"map": "range(3)", "do": a_task("read"), "join": {"quorum": 2}}}
    outer = {"sections": [docs, a_task("go")], "join": "best_effort"}
    talk = Conversation({"id": "best", "parallel": outer})
    talk.fail("best/docs[2]/read", message="no third")
    talk.fail("best/docs[1]/read", message="no second")

    finished = talk.succeed("best/go", 1).finished

    assert finished is not None
    assert "best/docs[1]/read: no second" in finished.output["docs"]["error"]["message"]


def test_a_repair_goes_to_the_same_model_though_others_filled_it() -> None:
    tiers = {"small": [{"pool": "p", "model": "m0", "in_flight_max": 1}, {"pool": "p", "model": "m1"}]}
    talk = Conversation(a_model("say"), tiers=tiers, routes=Breakers())
    route = tier_route(Route(pool="p", model="m0", in_flight_max=1), Breaker())
    assert talk.facts.routes is not None
    talk.facts.routes.count([RouteEvent(route, "asked", 9, BEGINNING_MS, BEGINNING_MS)])

    talk.fail("say", NextMove.REPAIR_OUTPUT)

    assert talk.model_call().model == "m0"


def test_a_straggler_neither_opens_nor_closes_a_route_that_is_tried_out() -> None:
    known, breaker = Breakers(), Breaker(calls_min=2, open_seconds=10)
    route = tier_route(Route(pool="p", model="m"), breaker)
    known.learn([RouteEvent(route, "failed", 0, 0, 0)] * 2)
    assert known.look(route, 10_000).probe

    known.learn([RouteEvent(route, "answered", 0, 10_000, 5_000)])
    assert known.look(route, 10_000).probe
    known.learn([RouteEvent(route, "failed", 0, 10_000, 5_000)])
    assert known.look(route, 10_000).probe


def test_calls_of_one_event_share_what_is_left_of_the_tenants_day() -> None:
    # given a tenant with room for one more call, and a run that asks for two at once
    calls = {"id": "all", "parallel": {"sections": [a_model("left"), a_model("right")], "join": "best_effort"}}
    talk = Conversation(a_chain(a_task("first"), calls))
    talk.facts = Facts(tenant=Allowance("default", Budget(model_calls=9), {"model_calls": 1}))

    talk.succeed("main/first")

    assert talk.asked() == []
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("budget_exceeded", "main/all/right")

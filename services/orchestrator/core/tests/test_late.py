"""Owns the examples of answers that nobody awaits any more: what they used is counted, and nothing else changes."""

from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.messages import Budget
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_child_run, a_model, a_task, tokens
from services.orchestrator.core.allowance import Allowance
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.state import Amounts
from services.orchestrator.core.tests.conversation import Conversation, only_money

PRICE = {"input_per_million": "100", "output_per_million": "1000"}
TIERS = {"small": [{"pool": "small", "model": "first", "price": PRICE}]}
NEEDED = Amounts(1, 166, Decimal("0.1066"))
USED = {**tokens(20, 10, "0.012")}


def a_call(step_id: str, **fields: Any) -> dict[str, Any]:
    """A model step that needs NEEDED."""
    return a_model(step_id, prompt="x" * 100, max_tokens=100, **fields)


def a_race(*, budget: Budget | None = None, facts: Facts | None = None, **fields: Any) -> Conversation:
    """A run that goes on after one of two branches answered; the other's call was given up."""
    race = {"id": "race", "parallel": {"sections": [a_call("slow"), a_task("quick")], "join": {"quorum": 1}}}
    talk = Conversation(a_chain(race, a_call("next"), **fields), tiers=TIERS, budget=budget, facts=facts)
    talk.succeed("main/race/quick")
    return talk


def test_what_a_late_answer_used_takes_the_place_of_its_worst_case() -> None:
    # given a run whose budget has room for two worst cases, of which the first was given up
    talk = a_race(budget=Budget(tokens=340))
    assert talk.run.live is not None
    account = talk.run.live.account
    assert account is not None
    assert (account.spent.tokens, account.reserved.tokens) == (166, 166)

    # when its answer comes after all
    decision = talk.succeed("main/race/slow", "late", **USED)

    # then what it used is spent, in the run's usage and its row, and nothing else is changed
    assert only_money(decision)
    assert (account.spent, account.unanswered) == (Amounts(1, 30, Decimal("0.012")), Amounts())
    row = talk.run.steps["main/race/slow"]
    assert (row.model_calls, row.input_tokens, row.output_tokens, row.cost) == (1, 20, 10, Decimal("0.012"))
    assert (row.phase.value, row.output, row.unanswered) == ("cancelled", None, ())
    assert talk.run.usage.model_calls == 1


def test_it_counts_once() -> None:
    talk = a_race()
    talk.succeed("main/race/slow", "late", **USED)

    assert talk.succeed("main/race/slow", "late", **USED).empty
    assert talk.run.usage.cost == Decimal("0.012")


def test_a_failure_has_been_paid_for_too() -> None:
    talk = a_race()

    talk.fail("main/race/slow", code="cancelled", **USED)

    assert talk.run.usage.cost == Decimal("0.012")


def test_each_attempt_that_timed_out_is_settled_by_its_own_answer() -> None:
    talk = Conversation(a_call("say", timeout_seconds=1), tiers=TIERS, budget=Budget(tokens=1_000))
    talk.ring()
    talk.ring()
    talk.ring()
    assert [each.attempt for each in talk.run.steps["say"].unanswered] == [1, 2]

    talk.succeed("say", "late", attempt=2, **USED)

    assert [(each.attempt, each.most) for each in talk.run.steps["say"].unanswered] == [(1, NEEDED)]
    assert talk.asked() == []


def test_the_caps_of_open_blocks_are_settled_as_well() -> None:
    race = {"id": "race", "parallel": {"sections": [a_call("slow"), a_task("quick")], "join": {"quorum": 1}}}
    plan = {"model": "small", "prompt": "Divide."}
    do = a_chain(race, a_call("next"), step_id="both")
    talk = Conversation({"id": "audit", "plan": plan, "do": do, "caps": {"tokens": 50_000}}, tiers=TIERS)
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})
    talk.succeed("audit[0]/task[0]/both/race/quick")
    assert talk.run.live is not None
    frame = talk.run.live.leaves["audit[0]/task[0]/both/next"].parent
    while frame.account() is None and frame.parent is not None:
        frame = frame.parent
    account = frame.account()
    assert account is not None
    assert account.spent.tokens == 166

    talk.succeed("audit[0]/task[0]/both/race/slow", "late", **USED)

    assert account.spent.tokens == 30


def test_after_the_end_of_its_run_it_still_counts() -> None:
    # given a run that was cancelled with a call in flight, of a tenant with a budget
    facts = Facts(tenant=Allowance("default", Budget(tokens=10_000), {}))
    talk = Conversation(a_call("say"), tiers=TIERS, facts=facts)
    talk.cancel()

    # when the answer comes a day later
    talk.now_ms += 86_400_000
    decision = talk.succeed("say", "late", **USED)

    # then the day on which it was asked for gets the rest back, and the row says what was used
    assert only_money(decision)
    (charge,) = decision.charges
    assert charge == (BEGINNING_MS // 86_400_000, Amounts(1, 30, Decimal("0.012")) - NEEDED)
    assert [step.model_calls for step in decision.steps] == [1]
    assert decision.alarm_at_ms is None


def test_a_child_that_was_given_up_is_settled_by_its_end() -> None:
    race = {"id": "race", "parallel": {"sections": [a_child_run("slow"), a_task("quick")], "join": {"quorum": 1}}}
    talk = Conversation(a_chain(race, a_task("next")), tiers=TIERS)
    talk.succeed("main/race/quick")
    error = {"code": "cancelled", "message": "its parent does not await it any more"}
    used = {"model_calls": 3, "input_tokens": 5, "output_tokens": 6, "cost": {"amount": "0.5"}}

    decision = talk.child_ended("main/race/slow", status="cancelled", error=error, usage=used)

    assert only_money(decision)
    assert (talk.run.usage.model_calls, talk.run.usage.cost) == (3, Decimal("0.5"))


def test_a_cost_that_cannot_be_added_leaves_the_worst_case() -> None:
    talk = a_race(budget=Budget(tokens=1_000))
    talk.run.usage.cost = Decimal(1)

    assert talk.succeed("main/race/slow", "late", **tokens(currency="EUR")).empty
    assert [each.most for each in talk.run.steps["main/race/slow"].unanswered] == [NEEDED]


@pytest.mark.parametrize("kind", ["task", "tool"])
def test_what_costs_nothing_changes_nothing(kind: str) -> None:
    slow = {"id": "slow", "task": "tasks.slow"} if kind == "task" else {"id": "slow", "tool": "files.read"}
    race = {"id": "race", "parallel": {"sections": [slow, a_task("quick")], "join": {"quorum": 1}}}
    talk = Conversation(a_chain(race, a_task("next")))
    talk.succeed("main/race/quick")

    assert talk.run.steps["main/race/slow"].unanswered == ()
    assert talk.succeed("main/race/slow", "late").empty


def test_a_cap_that_a_late_answer_took_away_is_neared_again() -> None:
    # given a run that has neared its cap by a call that was given up
    race = {"id": "race", "parallel": {"sections": [a_call("slow"), a_task("quick")], "join": {"quorum": 1}}}
    talk = Conversation(a_chain(race, a_task("wait"), a_call("next")), tiers=TIERS, budget=Budget(tokens=200))
    assert [each.cap for each in talk.succeed("main/race/quick").caps_neared] == ["tokens"]

    # when its late answer says that it used little, and another call uses much
    assert talk.succeed("main/race/slow", "late", **USED).caps_neared == ()
    talk.succeed("main/wait")
    decision = talk.succeed("main/next", "yes", **tokens(100, 40))

    # then that is told as well
    assert [(each.cap, each.used) for each in decision.caps_neared] == [("tokens", Decimal(170))]

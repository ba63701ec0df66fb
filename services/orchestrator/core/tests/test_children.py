"""Owns the examples of child runs: what they are asked for with, how their end counts, when they are given up."""

from typing import Any

import pytest

from penstock.contracts.messages import Failure, RunUsage, StepPhase
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_child_run, a_model, a_task, tokens
from services.orchestrator.core.tests.conversation import Conversation, only_money

SPENT = {"model_calls": 2, "input_tokens": 30, "output_tokens": 12, "cost": {"amount": "0.5", "currency": "USD"}}


def a_failure(code: str = "broken", step: str | None = "its/step") -> dict[str, Any]:
    """How a child run fails."""
    return {"status": "failed", "output": None, "error": Failure(code=code, message="it broke", step=step)}


def test_a_child_run_is_asked_for_and_its_output_is_the_steps() -> None:
    # given a chain of a task, a child run that is given its output, and a task that is given the child's
    child = a_child_run("review", input={"text": "{{ read }}"}, labels={"part": "review"}, timeout_seconds=60)
    talk = Conversation(
        a_chain(a_task("read"), child, a_task("sum", input="{{ review.verdict }}")),
        labels={"team": "a"},
        priority="batch",
    )
    # when the first step is done
    talk.succeed("main/read", "hello")
    # then the run is asked for with what a caller would say, and with its parent
    (asked,) = talk.last.children
    message = asked.message
    assert (message.workflow, message.input, message.tenant) == ("review", {"text": "hello"}, "default")
    assert (message.labels, message.priority) == ({"team": "a", "part": "review"}, "batch")
    assert message.deadline is not None
    assert message.deadline.timestamp() * 1000 == BEGINNING_MS + 60_000
    assert message.parent is not None
    assert message.parent.model_dump(exclude={"request_id"}) == {
        "run_id": "run-1",
        "home": 3,
        "step": "main/review",
        "depth": 1,
        "awaited": True,
    }
    # and its output goes on
    talk.child_ended("main/review", {"verdict": "good"})
    assert talk.inputs() == ["good"]


def test_the_end_of_a_child_counts_once() -> None:
    talk = Conversation(a_chain(a_child_run("review"), a_task("next")))
    talk.child_ended("main/review", 1)
    assert talk.child_ended("main/review", 2).empty
    talk.succeed("main/next")
    assert talk.run.status == "completed"
    assert talk.child_ended("main/review", 3).empty


def test_a_run_that_is_not_waited_for_is_only_asked_for() -> None:
    talk = Conversation(a_chain(a_child_run("audit", wait=False), a_task("next", input="{{ audit.run_id }}")))
    (asked,) = talk.last.children
    assert talk.inputs() == [asked.message.run_id]
    assert asked.message.parent is not None
    assert (asked.message.parent.awaited, asked.message.deadline) == (False, None)
    # when the run is cancelled, then the other one goes on
    talk.cancel()
    assert talk.given_up == []


def test_a_run_that_is_over_with_a_run_it_does_not_wait_for_still_asks_for_it() -> None:
    # given a run that fails in the very decision that asks for another
    bad = a_task("bad", input="{{ input.missing }}")
    both = {"sections": [a_child_run("audit", wait=False), a_task("slow"), bad]}
    talk = Conversation({"id": "all", "parallel": both})
    assert talk.run.status == "failed"
    # then what its row says was asked for is asked for, what was cancelled is not
    assert talk.asked() == ["all/audit#1"]


@pytest.mark.parametrize("how", ["cancel", "sibling", "timeout", "deadline"])
def test_a_child_that_nobody_awaits_any_more_is_cancelled(how: str) -> None:
    # given a child run beside a task
    sides = {"sections": [a_child_run("review", timeout_seconds=100), a_task("work", timeout_seconds=200)]}
    talk = Conversation({"id": "all", "parallel": sides}, deadline_seconds=50 if how == "deadline" else 3600)
    child = talk.children["all/review", 1].message.run_id
    # when its parent does not await it any more
    match how:
        case "cancel":
            talk.cancel()
        case "sibling":
            talk.fail("all/work")
        case _:
            talk.ring()
    # then it is told, and what it says later changes nothing but what was spent, once
    assert talk.given_up == [child]
    assert only_money(talk.child_ended("all/review"))
    assert talk.child_ended("all/review").empty


def test_a_child_that_was_never_sent_is_not_cancelled() -> None:
    bad = a_task("bad", input="{{ input.missing }}")
    talk = Conversation({"id": "all", "parallel": {"sections": [a_child_run("review"), bad]}})
    assert (talk.run.status, talk.asked(), talk.given_up) == ("failed", [], [])


def test_a_failed_child_fails_its_step_with_its_own_code() -> None:
    talk = Conversation(a_child_run("review"))
    talk.child_ended("review", **a_failure())
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("broken", "review")
    assert "it broke (at its step its/step)" in talk.run.error.message


def test_a_failed_child_is_asked_for_again_where_its_step_says_so() -> None:
    talk = Conversation(a_child_run("review", retry={"attempts": 2, "initial_ms": 1_000}))
    talk.child_ended("review", **a_failure())
    talk.ring()
    assert talk.asked() == ["review#2"]
    talk.child_ended("review", "better", attempt=2)
    assert talk.run.output == "better"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (a_failure("unknown_workflow", None), "unknown_workflow"),
        ({"status": "cancelled", "output": None, "error": Failure(code="cancelled", message="no")}, "child_cancelled"),
    ],
)
def test_what_another_attempt_would_meet_again_is_not_tried_again(fields: dict[str, Any], code: str) -> None:
    talk = Conversation(a_child_run("review", retry={"attempts": 3}))
    talk.child_ended("review", **fields)
    assert talk.run.error is not None
    assert (talk.run.status, talk.run.error.code) == ("failed", code)


def test_what_a_child_spent_is_its_steps_and_its_budget_is_what_is_left() -> None:
    # given a run that may make five model calls, of which it made one
    chain = a_chain(a_model("say"), a_child_run("review"), a_model("last"))
    budget = {"model_calls": 3, "tokens": 1000, "cost": {"amount": "1", "currency": "USD"}}
    talk = Conversation(chain, budget=budget)
    talk.succeed("main/say", "hello", **tokens(10, 5, "0.25"))
    # then its child may make the rest
    (asked,) = talk.last.children
    assert asked.message.budget is not None
    assert asked.message.budget.model_dump(mode="json") == {
        "model_calls": 2,
        "tokens": 985,
        "cost": {"amount": "0.75", "currency": "USD"},
    }
    # when it made them, then the run has nothing left
    talk.child_ended("main/review", "fine", usage=RunUsage.model_validate(SPENT))
    assert talk.run.steps["main/review"].model_calls == 2
    assert talk.run.usage.to_message().model_dump(mode="json") == {
        "model_calls": 3,
        "input_tokens": 40,
        "output_tokens": 17,
        "cost": {"amount": "0.75", "currency": "USD"},
    }
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("budget_exceeded", "main/last")


def test_what_is_left_for_a_child_is_written_alike_after_a_restart() -> None:
    """Guard: what was reserved and given back leaves no zeros behind; the conversation decides twice and compares."""
    price = {"input_per_million": "10", "output_per_million": "50"}
    tiers = {"small": [{"pool": "small", "model": "first", "price": price}]}
    say = a_model("say", max_tokens=100)
    do = a_chain(say, a_task("work"), a_child_run("ask"))
    talk = Conversation(do, budget={"cost": {"amount": "0.04"}}, tiers=tiers)
    talk.succeed("main/say", "yes", **tokens(cost="0.001"))

    talk.succeed("main/work")

    (child,) = talk.last.children
    assert b'"budget":{"cost":{"amount":"0.039","currency":"USD"}}' in child.message.to_json()


def test_a_child_with_a_budget_of_its_own_reserves_it() -> None:
    # given children side by side, each of which may make two of the run's five model calls
    ask = a_child_run("review", budget={"model_calls": 2})
    budget = {"model_calls": 5, "tokens": 1000}
    talk = Conversation({"id": "each", "parallel": {"map": "range(3)", "do": ask}}, budget=budget)
    # then the third one gets what the others leave
    granted = [child.message.budget for child in talk.last.children]
    calls = [(each.model_calls, each.tokens) for each in granted if each is not None]
    assert calls == [(2, 1000), (2, 1000), (1, 1000)]
    # when the first one ends without having used all, then that is free again
    talk.child_ended("each[0]/review", usage=RunUsage.model_validate(SPENT | {"model_calls": 1}))
    assert talk.run.steps["each[0]/review"].reserved is None
    live = talk.run.live
    assert live is not None
    assert live.account is not None
    assert (live.account.spent.model_calls, live.account.reserved.model_calls) == (1, 3)


def test_a_childs_budget_in_another_currency_fails_its_step() -> None:
    ask = a_child_run("review", budget={"cost": {"amount": 1, "currency": "EUR"}})
    talk = Conversation(ask, budget={"cost": {"amount": "2", "currency": "USD"}})
    assert talk.run.error is not None
    assert (talk.run.error.code, talk.run.error.step) == ("currency_mixed", "review")


def test_a_child_that_was_given_up_counts_with_its_budget() -> None:
    ask = a_child_run("review", budget={"model_calls": 2}, timeout_seconds=10, retry={"attempts": 2})
    talk = Conversation(ask, budget={"model_calls": 2})
    talk.ring()
    while talk.run.status == "running":
        talk.ring()
    assert talk.run.error is not None
    assert talk.run.error.code == "budget_exceeded"
    assert "2 spent, 0 reserved; nothing is left for a child run" in talk.run.error.message
    assert "raise `budget.model_calls` of the run's request" in talk.run.error.message


def test_a_failed_childs_spending_counts_too() -> None:
    talk = Conversation(a_child_run("review"))
    talk.child_ended("review", usage=RunUsage.model_validate(SPENT), **a_failure())
    assert talk.run.usage.model_calls == 2


@pytest.mark.parametrize(("depth", "asks"), [(7, True), (8, False)])
def test_runs_stand_no_deeper_than_allowed(depth: int, asks: bool) -> None:
    request_id = "b1b6a8a4-54b8-5d0c-9d92-0f2a6b5f3c11"
    parent = {"run_id": "above", "home": 1, "step": "deeper", "request_id": request_id, "depth": depth}
    talk = Conversation(a_child_run("deeper"), parent=parent)
    assert bool(talk.last.children) is asks
    if not asks:
        assert talk.run.error is not None
        assert talk.run.error.code == "run_depth_exceeded"
        assert "depth_max of the workflow `example` allows 8" in talk.run.error.message


def test_a_redrive_asks_for_another_child_run() -> None:
    talk = Conversation(a_chain(a_task("first"), a_child_run("review")))
    talk.succeed("main/first")
    talk.child_ended("main/review", **a_failure())
    talk.redrive()
    assert talk.asked() == ["main/review#2"]
    # the first one's end, said again, is nobody's
    assert talk.child_ended("main/review", "late").empty
    talk.child_ended("main/review", "done", attempt=2)
    assert talk.run.status == "completed"


def test_labels_beyond_what_a_run_may_have_fail_the_step() -> None:
    labels = {f"l{number}": "x" for number in range(20)}
    more = {f"m{number}": "x" for number in range(20)}
    talk = Conversation(a_child_run("review", labels=more), labels=labels)
    assert talk.run.error is not None
    assert talk.run.error.message.startswith("labels: 40 with those of the run; a run may have 32")


def test_a_child_step_that_is_cancelled_stays_so() -> None:
    talk = Conversation(a_child_run("review"))
    talk.cancel("not needed")
    assert talk.run.steps["review"].phase is StepPhase.CANCELLED

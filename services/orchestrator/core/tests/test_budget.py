"""Owns the examples of budgets: what is reserved, settled, kept for answers that never came, refused, and said."""

from decimal import Decimal
from typing import Any

import pytest

from penstock.contracts.messages import Budget, Money, NextMove, RunFinished
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_definition, a_model, a_task, tokens
from services.orchestrator.core.accounts import account_of
from services.orchestrator.core.budget import effective, worst_case
from services.orchestrator.core.decide import restore
from services.orchestrator.core.state import NOTHING, Amounts
from services.orchestrator.core.tests.conversation import Conversation, stored

PRICE = {"input_per_million": "100", "output_per_million": "1000"}
PRICED = {"small": [{"pool": "small", "model": "first", "price": PRICE}, {"pool": "burst", "model": "second"}]}
PROMPT = "x" * 100
"""50 tokens, and 16 for the message."""
NEEDED = Amounts(1, 166, Decimal("0.1066"))
"""Of a call with PROMPT and 100 tokens at most, at PRICE."""


def a_call(step_id: str, **fields: Any) -> dict[str, Any]:
    """A model step that needs NEEDED."""
    return a_model(step_id, prompt=PROMPT, max_tokens=100, **fields)


def side_by_side(*blocks: dict[str, Any], join: str = "all") -> dict[str, Any]:
    """Sections."""
    return {"id": "all", "parallel": {"sections": list(blocks), "join": join}}


def a_talk(do: dict[str, Any], budget: Budget | None, **fields: Any) -> Conversation:
    """A run with a budget."""
    return Conversation(do, tiers=PRICED, budget=budget, **fields)


def ended(talk: Conversation) -> tuple[str, str | None, str]:
    """What the run failed with: code, step, message."""
    finished = talk.last.finished
    assert isinstance(finished, RunFinished)
    assert finished.error is not None
    return finished.error.code, finished.error.step, finished.error.message


def test_the_worst_case_is_estimated_from_bytes_and_the_most_that_may_be_answered() -> None:
    talk = a_talk(a_call("say", output_schema={"type": "string"}), Budget(tokens=1_000))

    assert talk.run.steps["say"].reserved == Amounts(1, 50 + 9 + 16 + 100, Decimal("0.1075"))
    assert worst_case(talk.model_call(), None).cost == 0
    long = Conversation(a_model("say", prompt="語" * 10), budget=Budget(tokens=1_000))
    assert long.run.steps["say"].reserved == Amounts(1, 15 + 16 + 256, Decimal(0))


def test_without_a_budget_nothing_is_reserved() -> None:
    assert a_talk(a_call("say"), None).run.steps["say"].reserved is None


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (
            Budget(model_calls=1),
            "the cap of model calls is 1: 0 spent, 1 reserved by calls in flight, 1 needed at most by this call, "
            "which was not sent; raise `budget.model_calls` of the run's request",
        ),
        (Budget(tokens=331), "the cap of tokens is 331: 0 spent, 166 reserved by calls in flight, 166 needed at most"),
        (
            Budget(cost=Money(amount="0.2")),
            "the cap of cost is 0.2 USD: 0 spent, 0.1066 reserved by calls in flight, 0.1066 needed at most",
        ),
    ],
)
def test_branches_side_by_side_cannot_overspend(budget: Budget, says: str) -> None:
    """Guard: even a best effort, which makes do with a failed branch, ends."""
    talk = a_talk(side_by_side(a_call("one"), a_call("two"), join="best_effort"), budget)

    assert talk.asked() == []
    code, step, message = ended(talk)
    assert (code, step) == ("budget_exceeded", "all/two")
    assert says in message


def test_what_an_answer_did_not_use_is_there_for_the_next_call() -> None:
    talk = a_talk(a_chain(a_call("one"), a_call("two"), a_call("three")), Budget(tokens=190))

    talk.succeed("main/one", "yes", **tokens(10, 5))
    assert talk.asked() == ["main/two#1"]
    talk.succeed("main/two", "yes", **tokens(10, 0))

    assert talk.asked() == []
    assert "the cap of tokens is 190: 25 spent, 0 reserved by calls in flight, 166 needed" in ended(talk)[2]


def test_a_call_without_a_price_is_made_while_any_money_is_left() -> None:
    talk = Conversation(a_chain(a_call("one"), a_call("two")), budget=Budget(cost=Money(amount="0.001")))
    assert talk.asked() == ["main/one#1"]

    talk.succeed("main/one", "yes", **tokens(cost="0.001"))

    assert "the cap of cost is 0.001 USD: 0.001 spent" in ended(talk)[2]


def test_a_call_that_was_never_answered_counts_with_its_worst_case() -> None:
    """Guard: the engine may have answered too late, and its bill comes all the same."""
    talk = a_talk(a_call("say", timeout_seconds=1), Budget(tokens=400))
    talk.ring(BEGINNING_MS + 1_000)
    assert talk.asked() == ["say#2"]
    assert [each.most for each in talk.run.steps["say"].unanswered] == [NEEDED]

    talk.ring(BEGINNING_MS + 2_000)
    talk.ring()

    assert ended(talk)[0] == "budget_exceeded"
    assert "332 spent (332 of it by calls whose answer never came), 0 reserved" in ended(talk)[2]
    assert talk.run.usage.model_calls == 0


def test_a_cancelled_call_may_have_been_paid_for_but_one_that_was_never_sent_was_not() -> None:
    talk = a_talk(a_chain(side_by_side(a_call("one"), a_task("two"))), Budget(tokens=10_000))
    talk.fail("main/all/two")
    assert [each.most for each in talk.run.steps["main/all/one"].unanswered] == [NEEDED]

    unsent = a_talk(side_by_side(a_call("one"), a_task("two", input="{{ input.nothing }}")), Budget(tokens=10_000))
    assert unsent.run.status == "failed"
    assert (unsent.run.steps["all/one"].reserved, unsent.run.steps["all/one"].unanswered) == (None, ())


def test_reservations_are_found_in_the_rows_again() -> None:
    talk = a_talk(side_by_side(a_call("one"), a_call("two")), Budget(tokens=10_000))
    talk.succeed("all/one", "yes", **tokens(10, 5))

    again = stored(talk.run)
    account = restore(again, talk.program).account

    assert account == (None if talk.run.live is None else talk.run.live.account)
    assert account is not None
    assert (account.reserved, account.spent) == (NEEDED, Amounts(1, 15, Decimal("0.001")))


def test_a_blocks_account_is_the_sum_of_the_rows_below_it() -> None:
    talk = a_talk(a_chain(a_call("one"), side_by_side(a_call("two"))), Budget(tokens=10_000))
    talk.succeed("main/one", "yes", **tokens(10, 5))

    account = account_of(talk.run, Budget(), "main/all")

    assert (account.reserved, account.spent) == (NEEDED, NOTHING)
    assert account.where("tokens") == "`caps.tokens` of the block `main/all`"


def test_a_budget_does_not_stop_tasks() -> None:
    talk = a_talk(a_chain(a_model("one"), a_task("two")), Budget(model_calls=1))

    talk.succeed("main/one", "yes")

    assert talk.asked() == ["main/two#1"]


def test_a_runs_own_budget_can_only_lower_its_workflows() -> None:
    ceiling = Budget(model_calls=5, cost=Money(amount="2"))

    assert effective(None, ceiling) == ceiling
    assert effective(Budget(model_calls=9, tokens=7), ceiling) == Budget(
        model_calls=5, tokens=7, cost=Money(amount="2")
    )
    assert effective(Budget(cost=Money(amount="1")), ceiling) == Budget(model_calls=5, cost=Money(amount="1"))


def test_the_failure_says_whose_cap_it_is() -> None:
    definition = a_definition(a_call("say"), tiers=PRICED, budget={"tokens": 120})

    assert "raise `budget.tokens` of the workflow `example`" in ended(Conversation(definition))[2]
    own = Conversation(definition, budget=Budget(tokens=50))
    assert "raise `budget.tokens` of the run's request" in ended(own)[2]
    assert own.last.start is not None
    assert own.last.start.budget == Budget(tokens=50)


def test_a_budget_in_another_currency_is_refused() -> None:
    euros = Budget(cost=Money(amount="1", currency="EUR"))
    definition = a_definition(a_call("say"), tiers=PRICED, budget={"cost": {"amount": "1"}})

    assert ended(Conversation(definition, budget=euros))[:2] == ("currency_mixed", None)
    assert ended(a_talk(a_call("say"), euros))[:2] == ("currency_mixed", "say")


def test_a_cap_that_is_nearly_used_up_says_so_once() -> None:
    chain = a_chain(*[a_call(f"s{number}") for number in range(4)])
    talk = a_talk(chain, Budget(tokens=2_000, model_calls=4))
    said = []
    for number, used in enumerate((1_000, 700, 50, 50)):
        talk.succeed(f"main/s{number}", "yes", **tokens(used, 0))
        said.append([(near.cap, near.used, near.limit, near.block) for near in talk.last.caps_neared])
        talk.run.live = None  # a restart in between changes nothing

    assert said == [[], [("tokens", Decimal(1_700), Decimal(2_000), None)], [], [("model_calls", 4, 4, None)]]


def test_failed_attempts_are_settled_too() -> None:
    talk = a_talk(a_call("say"), Budget(tokens=500))

    talk.fail("say", NextMove.RETRY_ELSEWHERE, **tokens(30, 0))

    account = talk.run.live.account if talk.run.live is not None else None
    assert account is not None
    assert (account.spent.tokens, account.reserved.tokens, account.unanswered) == (30, 166, NOTHING)

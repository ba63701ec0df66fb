"""Owns the promise that every cap that stops a run names itself, its value, and where to raise it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from penstock.contracts.messages import Budget, Money, NextMove
from penstock.testkit.builders import BEGINNING, BEGINNING_MS, a_child_run, a_definition, a_model, a_task
from services.orchestrator.core.allowance import Allowance
from services.orchestrator.core.breakers import Breakers, RouteEvent
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.leaf import LeafNode
from services.orchestrator.core.tests.conversation import Conversation

PRICE = {"input_per_million": "100", "output_per_million": "1000"}
TIERS = {"small": [{"pool": "small", "model": "first", "price": PRICE}]}
CALL = a_model("say", prompt="x" * 100, max_tokens=100)
"""Needs 166 tokens and 0.1066 USD."""


def of_request(**budget: Any) -> Conversation:
    """A run whose request brings a budget."""
    return Conversation(CALL, tiers=TIERS, budget=Budget.model_validate(budget))


def of_workflow(**budget: Any) -> Conversation:
    """A run of a workflow that has a budget."""
    return Conversation(a_definition(CALL, tiers=TIERS, budget=budget))


def of_tenant() -> Conversation:
    """A run whose tenant has used its day."""
    allowance = Allowance("acme", Budget(tokens=5_000), {"tokens": 100})
    return Conversation(CALL, tiers=TIERS, facts=Facts(tenant=allowance))


def at_deadline(**fields: Any) -> Conversation:
    """A run that is not over at its deadline."""
    talk = Conversation(a_task("work"), **fields)
    talk.ring()
    return talk


def steps() -> Conversation:
    """More attempts than a workflow allows."""
    return Conversation({"id": "docs", "parallel": {"map": "range(9)", "do": a_task("read")}}, steps_max=4)


def items() -> Conversation:
    """A list that is too long for its map."""
    return Conversation({"id": "docs", "parallel": {"map": "range(9)", "do": a_task("read"), "items_max": 4}})


def step_time() -> Conversation:
    """A step that takes too long over all its attempts."""
    talk = Conversation(a_task("work", step_timeout_seconds=7))
    talk.ring()
    return talk


def breakers() -> Conversation:
    """A step that could wait for a breaker, but not so long."""
    tiers = {"small": {"routes": [{"pool": "small", "model": "first"}], "breaker": {"calls_min": 1}}}
    scout = Conversation(a_model("scout"), tiers=tiers).program.root
    assert isinstance(scout, LeafNode)
    known = Breakers()
    known.learn([RouteEvent(scout.routes[0], "failed", 0, BEGINNING_MS, BEGINNING_MS)])
    return Conversation(a_model("say", step_timeout_seconds=9), tiers=tiers, facts=Facts(routes=known))


def an_agent(calls: list[str], **caps: Any) -> Conversation:
    """An agent that keeps calling its tool."""
    tool = {"tool": "files.read", "description": "Reads.", "arguments_schema": {"type": "object"}}
    agent = {"id": "fix", "agent": {"model": "small", "prompt": "Fix it.", "tools": [tool], **caps}}
    talk = Conversation(agent, tiers=TIERS)
    for number, path in enumerate(calls):
        if talk.run.status == "running":
            talk.succeed(
                f"fix[{number}]/turn", {"calls": [{"tool": "files.read", "arguments": {"path": path}}]}, attempt=1
            )
        if talk.run.status == "running":
            talk.succeed(f"fix[{number}]/call[0]", "text")
    return talk


def a_plan() -> Conversation:
    """A planner that wants more than it may."""
    block = {"id": "audit", "plan": {"model": "small", "prompt": "Plan.", "tasks_max": 2, "rounds_max": 2}}
    talk = Conversation(block | {"do": a_task("work")})
    talk.succeed("audit[0]/plan", {"tasks": ["a"]})
    talk.succeed("audit[0]/task[0]/work")
    talk.succeed("audit[1]/plan", {"tasks": ["b", "c"]})
    return talk


def a_refine() -> Conversation:
    """Candidates that never reach the bar."""
    loop = {"generate": a_task("draft"), "score": "candidate", "bar": 10, "rounds_max": 1, "on_cap": "fail"}
    talk = Conversation({"id": "poem", "refine": loop})
    talk.succeed("poem[0]/draft", 2)
    return talk


def depth() -> Conversation:
    """A run that stands as deep as runs may, and asks for another."""
    request_id = "b1b6a8a4-54b8-5d0c-9d92-0f2a6b5f3c11"
    parent = {"run_id": "above", "home": 1, "step": "deeper", "request_id": request_id, "depth": 8}
    return Conversation(a_child_run("deeper"), parent=parent)


def attempts() -> Conversation:
    """A step whose attempts are used up."""
    talk = Conversation(a_task("work", retry={"attempts": 1}))
    talk.fail("work", NextMove.RETRY_AFTER)
    return talk


EARLY = {"deadline": BEGINNING + timedelta(seconds=5)}
SETTING = "PENSTOCK_ORCHESTRATOR_TENANT_BUDGETS of the orchestrator"


@pytest.mark.parametrize(
    ("reached", "code", "cap", "value", "where"),
    [
        (steps, "steps_exceeded", "steps_max", "4 attempts", "raise `steps_max` of the workflow `example`"),
        (
            lambda: at_deadline(deadline_seconds=5),
            "deadline_exceeded",
            "deadline",
            "00:00:05.000Z",
            "raise `deadline_seconds` (5) of the workflow `example`",
        ),
        (
            lambda: at_deadline(**EARLY),
            "deadline_exceeded",
            "deadline",
            "00:00:05.000Z",
            "give the run's request a later `deadline`",
        ),
        (
            lambda: of_request(tokens=150),
            "budget_exceeded",
            "cap of tokens",
            "150",
            "raise `budget.tokens` of the run's request",
        ),
        (
            lambda: of_workflow(tokens=150),
            "budget_exceeded",
            "cap of tokens",
            "150",
            "raise `budget.tokens` of the workflow `example`",
        ),
        (
            lambda: of_request(cost=Money(amount="0.1")),
            "budget_exceeded",
            "cap of cost",
            "0.1 USD",
            "raise `budget.cost` of the run's request",
        ),
        (
            lambda: an_agent(["a", "b"], caps={"model_calls": 1}),
            "budget_exceeded",
            "cap of model calls",
            "1:",
            "raise `caps.model_calls` of the block `fix`",
        ),
        (of_tenant, "budget_exceeded", "cap of tokens of the tenant acme", "5000 a day", f"raise {SETTING}"),
        (items, "expression_failed", "items_max", "is 4", "raise `parallel.items_max` of `docs`"),
        (step_time, "step_timeout", "step_timeout_seconds", "7 s", "raise step_timeout_seconds of the step `work`"),
        (breakers, "breaker_open", "step_timeout_seconds", "00:00:09", "raise the step_timeout_seconds"),
        (attempts, "broken", "attempt", "1 of 1", ""),
        (
            lambda: an_agent(["a", "b"], turns_max=2),
            "turns_exceeded",
            "turns_max",
            "2 turns",
            "raise `agent.turns_max` of `fix`",
        ),
        (
            lambda: an_agent(["a", "b"], tool_calls_max=1),
            "tool_calls_exceeded",
            "tool_calls_max",
            "2 of 1",
            "raise `agent.tool_calls_max` of `fix`",
        ),
        (
            lambda: an_agent(["a", "a"], repeats_max=1),
            "loop_detected",
            "repeats_max",
            "1 times",
            "raise `agent.repeats_max` of `fix`",
        ),
        (a_plan, "plan_tasks_exceeded", "tasks_max", "is 2", "raise `plan.tasks_max` of `audit`"),
        (a_refine, "refine_cap", "rounds_max", "1 rounds", "raise `refine.rounds_max`"),
        (depth, "run_depth_exceeded", "depth_max", "allows 8", "raise it"),
    ],
)
def test_a_cap_that_stops_a_run_names_itself_its_value_and_where_to_raise_it(
    reached: Callable[[], Conversation], code: str, cap: str, value: str, where: str
) -> None:
    error = reached().run.error

    assert error is not None
    assert error.code == code
    assert cap in error.message
    assert value in error.message
    assert where in error.message

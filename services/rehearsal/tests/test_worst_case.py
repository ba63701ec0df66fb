"""The worst case of a workflow holds: whatever its steps answer, no run uses more."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.workflow.checks import check
from penstock.workflow.definition import Definition, leaves
from penstock.workflow.parts import ModelStep
from penstock.workflow.sizes import REQUEST_BYTES_MAX
from penstock.workflow.worst_case import worst_case
from services.orchestrator.core.values import VALUE_BYTES_MAX
from services.rehearsal.rehearsal import Happened, rehearse
from services.rehearsal.replay import deviations, recorded
from services.rehearsal.script import Script

PRICES = [
    {"pool": "small", "model": "first", "price": {"input_per_million": "1000", "output_per_million": "3000"}},
    {"pool": "burst", "model": "second", "price": {"input_per_million": "2000", "output_per_million": "2500"}},
]
MOVES = ["retry_after", "retry_elsewhere", "repair_output", "give_up"]
LIST = {"type": "array", "maxItems": 4, "items": {"type": "string", "maxLength": 20}}
TEXTS_MAX = 8
ONCE = {"attempts": 1}
KINDS = ["leaf", "chain", "route", "sections", "map", "refine", "vote", "plan", "agent"]


def test_one_request_carries_as_much_as_the_engine_lets_it() -> None:
    assert REQUEST_BYTES_MAX == VALUE_BYTES_MAX


SLOW = "60s"
CALLS = [{"tool": "tasks.work", "arguments": {}}]
PLANNED = {
    "do": {
        "id": "divide",
        "plan": {
            "model": "small",
            "prompt": "Divide.",
            "tasks_max": 3,
            "rounds_max": 3,
            "max_tokens": 9,
            "retry": ONCE,
        },
        "do": {"id": "work", "task": "tasks.work", "retry": ONCE},
        "join": {"id": "join", "task": "tasks.join", "retry": ONCE},
    },
    "answers": {
        "plan": {"output": {"tasks": ["a"]}, "output_tokens": 9, "after": SLOW},
        "work": {"output": 1, "after": SLOW},
        "join": {"output": 1, "after": SLOW},
    },
}
TALKED = {
    "do": {
        "id": "talk",
        "agent": {
            "model": "small",
            "prompt": "Go.",
            "tools": [{"task": "tasks.work", "retry": ONCE}],
            "turns_max": 3,
            "tool_calls_max": 2,
            "max_tokens": 9,
            "retry": ONCE,
        },
    },
    "answers": {
        "talk[2]/turn": {"output": {"answer": "done"}, "output_tokens": 9, "after": SLOW},
        "turn": {"output": {"calls": CALLS}, "output_tokens": 9, "after": SLOW},
        "call": {"output": 1, "after": SLOW},
    },
}


@pytest.mark.parametrize("story", [PLANNED, TALKED], ids=["plan", "agent"])
def test_the_worst_case_of_a_loop_can_happen(story: dict[str, Any]) -> None:
    # Given a loop that goes on for as long as it may, with nothing done sooner than it must
    body = {"name": "example", "tiers": {"small": PRICES}, "do": story["do"], "deadline_seconds": 9_000}
    definition = Definition.model_validate(body)
    script = Script.model_validate({"cases": [{"name": "story", "answers": story["answers"]}]})

    # When it runs
    happened = rehearse(definition, script.cases[0], {})

    # Then the bound is what it took: not less, and not more
    worst = worst_case(definition).bound
    assert (happened.stopped, happened.run.status) == (None, "completed")
    assert (len(happened.asked), happened.run.usage.model_calls) == (worst.requests, worst.model_calls)
    assert happened.run.usage.output_tokens == worst.output_tokens
    assert happened.duration_ms == worst.needed_seconds * 1000


def repeated(draw: st.DrawFn, kind: str, do: dict[str, Any], at_once: int) -> dict[str, Any]:
    """What makes a block one that does something more than once."""
    match kind:
        case "vote":
            vote = {"do": do, "votes": 2 + at_once, "agree": at_once, "max_concurrency": at_once}
            return {"parallel": {"vote": vote}}
        case "plan":
            planner = {"model": "small", "prompt": "Divide.", "tasks_max": 3, "rounds_max": at_once, "retry": ONCE}
            return {"plan": {**planner, "max_tokens": 40}, "do": do, "max_concurrency": at_once}
        case "agent":
            tools = [{"task": "tasks.work", "retry": {"attempts": at_once}}]
            loop = {
                "model": "small",
                "prompt": "Go.",
                "tools": tools,
                "turns_max": at_once,
                "max_tokens": 40,
                "retry": ONCE,
            }
            context = {"policy": draw(st.sampled_from(["window", "summarise"])), "messages_max": 2}
            return {"agent": {**loop, "tool_calls_max": 3, "repeats_max": 9, "context": context}}
        case "map":
            return {"parallel": {"map": "input.texts", "do": do, "max_concurrency": at_once}}
        case _:
            return {"refine": {"generate": do, "score": "0 * round", "rounds_max": at_once}}


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """Small trees of all kinds whose worst case can be told."""
    count = iter(range(1_000))

    def leaf(seen: list[str]) -> dict[str, Any]:
        step: dict[str, Any] = {"id": f"s{next(count)}", "timeout_seconds": draw(st.sampled_from([1, 30, 600]))}
        step["retry"] = {"attempts": draw(st.integers(1, 4)), "initial_ms": draw(st.sampled_from([1, 5_000]))}
        if draw(st.booleans()):
            step["step_timeout_seconds"] = draw(st.sampled_from([20, 2_000]))
        if draw(st.booleans()):
            names = draw(st.lists(st.sampled_from(["input.texts", "input.word", *seen]), max_size=3))
            prompt = "Say: " + " ".join(f"{{{{ {name} }}}}" for name in names)
            return {**step, "model": "small", "prompt": prompt, "max_tokens": draw(st.integers(1, TEXTS_MAX))}
        if draw(st.booleans()):
            step["undo"] = {"task": "tasks.undo", "retry": {"attempts": draw(st.integers(1, 3))}}
        return {**step, "task": "tasks.work"}

    def block(depth: int, seen: list[str]) -> dict[str, Any]:
        kind = draw(st.sampled_from(KINDS)) if depth else "leaf"
        if kind == "leaf":
            return leaf(seen)
        own = {"id": f"b{next(count)}"}
        inside = [block(depth - 1, seen) for _ in range(draw(st.integers(1, 3)))]
        at_once = draw(st.integers(1, 3))
        match kind:
            case "chain":
                texts = [each["id"] for each in inside if "model" in each]
                return {**own, "chain": [*inside, leaf([*seen, *texts])]}
            case "route":
                cases = [
                    {"case": f"c{n}", "when": f"input.texts | length == {n}", "do": each}
                    for n, each in enumerate(inside)
                ]
                return {**own, "route": cases, "otherwise": leaf(seen)}
            case "sections":
                return {**own, "parallel": {"sections": inside, "max_concurrency": at_once, "join": "best_effort"}}
            case _:
                return {**own, **repeated(draw, kind, inside[0], at_once)}

    body = {
        "name": "example",
        "input": {
            "type": "object",
            "properties": {"texts": LIST, "word": {"type": "string", "maxLength": 5}},
            "required": ["texts", "word"],
        },
        "tiers": {"small": PRICES},
        "deadline_seconds": draw(st.sampled_from([60, 100_000])),
        "budget": draw(st.sampled_from([None, None, {"model_calls": 2}, {"tokens": 900}, {"cost": {"amount": "0.9"}}])),
        "undo_seconds": draw(st.sampled_from([30, 3_600])),
        "steps_max": draw(st.sampled_from([3, 10_000, 10_000])),
        "do": block(draw(st.integers(1, 3)), []),
    }
    return Definition.model_validate(body)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Definition, Happened]:
    """A run whose steps answer, fail and fall silent as they like."""
    definition = draw(definitions())
    answers: dict[str, Any] = {}
    for step in leaves(definition.do):
        size = step.max_tokens * 4 if isinstance(step, ModelStep) else 10
        good = {"output": "x" * draw(st.sampled_from([0, size])), "after": draw(st.sampled_from([0, 25]))}
        bad = {"fails": {"next": draw(st.sampled_from(MOVES))}, "after": draw(st.integers(0, 40))}
        if isinstance(step, ModelStep):
            bad["output_tokens"] = step.max_tokens
        answers[step.id] = draw(st.lists(st.sampled_from([good, good, bad, {"never": True}]), min_size=1, max_size=4))
    calls = [{"tool": "tasks.work", "arguments": {}}]
    slow = draw(st.sampled_from([0, 59]))
    answers |= {
        "plan": {
            "output": {"tasks": ["a", "b"][: draw(st.sampled_from([0, 1, 2]))]},
            "after": slow,
            "output_tokens": 40,
        },
        "turn": [
            {"output": {"calls": calls * draw(st.integers(1, 2))}, "after": slow, "output_tokens": 40},
            {"output": {"calls": calls}, "output_tokens": 40},
        ],
        "call": draw(st.sampled_from([{"output": 1, "after": slow}, {"fails": {"next": "retry_after"}}])),
        "undo": draw(st.sampled_from([{"output": 1, "after": slow}, {"never": True}, {"fails": {}}])),
        "summary": {"output": "So far so good.", "after": slow, "output_tokens": 40},
    }
    case = {
        "name": "story",
        "input": {"texts": draw(st.lists(st.text("aé☃\u0007", max_size=20), max_size=4)), "word": "w0"},
        "answers": answers,
    }
    script = Script.model_validate({"cases": [case]})
    return definition, rehearse(definition, script.cases[0], {})


@given(runs())
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_run_uses_more_than_the_worst_case(run: tuple[Definition, Happened]) -> None:
    # Given what a run used
    definition, happened = run
    assert check(definition) == []
    assert happened.stopped is None
    usage, worst = happened.run.usage, worst_case(definition)

    # Then none of it is above the bound
    assert worst.bound.uncounted == frozenset()
    assert len(happened.asked) <= worst.bound.requests + worst.bound.undos
    assert usage.model_calls <= worst.bound.model_calls
    assert usage.input_tokens <= worst.bound.input_tokens
    assert usage.output_tokens <= worst.bound.output_tokens
    assert usage.cost <= worst.bound.cost.get("USD", Decimal(0))
    assert happened.duration_ms is not None
    assert happened.duration_ms <= worst.bound.needed_seconds * 1000 + 1


@given(runs())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_history_can_be_told_again(run: tuple[Definition, Happened]) -> None:
    # Given a run's history as it would be recorded
    definition, happened = run
    text = recorded(definition, happened, "story")

    # Then telling it again, also to a run restored from its rows before each event, leads to the same decisions
    assert deviations(text) == []

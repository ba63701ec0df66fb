"""Owns the loops of random definitions, and what may come back from their steps."""

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from penstock.workflow.definition import Block, children
from penstock.workflow.loops import Agent, Plan, Refine

Inside = Callable[..., st.SearchStrategy[dict[str, Any]]]
"""What draws a block that sees some names more."""

SAYINGS = [
    {"calls": [{"tool": "files.read", "arguments": {"path": "a"}}, {"tool": "tasks.work", "arguments": {"n": 1}}]},
    {"calls": [{"tool": "tasks.work", "arguments": {"n": number}} for number in range(3)]},
    {"calls": [{"tool": "files.read"}, {"tool": "files.delete", "arguments": {}}]},
    {"calls": []},
    {"answer": 7},
    {"answer": "almost"},
    {"answer": "done"},
]
PLANS: list[Any] = [
    {"tasks": ["one"]},
    {"tasks": ["one", "two", "three"]},
    {"tasks": [{"kind": "a", "items": [1]}, 2]},
    {"task": "none"},
    {"tasks": []},
]


def loops(kind: str, block_id: str, source: str, inside: Inside) -> st.SearchStrategy[dict[str, Any]]:
    """A loop of a kind."""
    match kind:
        case "refine":
            return refines(block_id, inside)
        case "plan":
            return plans(block_id, source, inside)
        case _:
            return agents(block_id, source)


def loop_limits(block: Refine | Agent | Plan, path: str) -> Iterator[tuple[str, int]]:
    """How many branches a loop may have open: one round at a time, and in it one step, or calls or sub-tasks."""
    yield path, 1
    match block:
        case Agent():
            yield f"{path}/call", block.agent.parallel_calls_max
        case Plan():
            yield f"{path}/task", block.max_concurrency
        case Refine():
            pass


def loop_children(block: Refine | Agent | Plan, path: str) -> list[tuple[str, Block]]:
    """The blocks inside a loop, each with the path that it stands below."""
    if isinstance(block, Plan):
        return [(f"{path}/task", block.do), *([] if block.join is None else [(path, block.join)])]
    return [(path, child) for child in children(block)]


def loop_outputs(path: str) -> list[Any] | None:
    """What may come back from a loop's own step at a path, the one that ends it last; None: it is no such step."""
    if path.endswith("]/turn"):
        return SAYINGS
    return PLANS if path.endswith("]/plan") else None


@st.composite
def refines(draw: st.DrawFn, block_id: str, inside: Inside) -> dict[str, Any]:
    """A refine with a block or an expression as its judge, now and then one that gives no number."""
    loop: dict[str, Any] = {
        "generate": draw(inside("candidate", "round")),
        "bar": draw(st.sampled_from([1, 3])),
        "rounds_max": draw(st.integers(1, 3)),
        "patience": draw(st.sampled_from([None, 1])),
        "on_cap": draw(st.sampled_from(["best", "fail"])),
        "caps": draw(CAPS),
    }
    if draw(st.booleans()):
        loop["evaluate"] = draw(inside("candidate"))
    else:
        loop["score"] = draw(st.sampled_from(["round", "candidate", "0.5"]))
        loop["critique"] = draw(st.sampled_from([None, "{{ candidate }}"]))
    return {"id": block_id, "refine": loop}


CAPS = st.sampled_from([None, {"model_calls": 3}, {"tokens": 4_000}, {"cost": {"amount": "0.002"}}])


@st.composite
def plans(draw: st.DrawFn, block_id: str, source: str, inside: Inside) -> dict[str, Any]:
    """A plan of one to three rounds, now and then of fewer sub-tasks than its planner wants."""
    planner = {
        "model": "small",
        "prompt": f"{{{{ results | length }}}} {source}",
        "task_schema": draw(st.sampled_from([{}, {"type": "string"}])),
        "tasks_max": draw(st.integers(1, 4)),
        "rounds_max": draw(st.integers(1, 3)),
        "retry": {"attempts": draw(st.integers(1, 4)), "initial_ms": 1_000},
    }
    do, join = draw(inside("task")), draw(st.booleans())
    block = {"id": block_id, "plan": planner, "do": do, "max_concurrency": draw(st.integers(1, 3)), "caps": draw(CAPS)}
    return block | ({"join": draw(inside("results"))} if join else {})


@st.composite
def agents(draw: st.DrawFn, block_id: str, source: str) -> dict[str, Any]:
    """An agent with narrow caps and a small context."""
    retry = {"attempts": draw(st.integers(1, 4)), "initial_ms": 1_000}
    tools = [
        {"tool": "files.read", "arguments_schema": {"type": "object", "required": ["path"]}},
        {"task": "tasks.work", "input_schema": {"type": "object"}, "retry": retry},
    ]
    policy = st.sampled_from(["window", "summarise", "drop_tool_results"])
    loop = {
        "model": "small",
        "prompt": f"Do {source}",
        "tools": tools,
        "retry": retry,
        "turns_max": draw(st.integers(1, 4)),
        "tool_calls_max": draw(st.integers(1, 5)),
        "parallel_calls_max": draw(st.integers(1, 3)),
        "repeats_max": draw(st.integers(1, 3)),
        "context": {"policy": draw(policy), "messages_max": draw(st.sampled_from([2, 4])), "bytes_max": 256},
        "stop": draw(st.sampled_from([None, "answer == 'done'", "answer.length"])),
        "caps": draw(CAPS),
    }
    return {"id": block_id, "agent": loop}

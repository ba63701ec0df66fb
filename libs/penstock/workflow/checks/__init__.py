"""Owns what is checked when a definition is published: everything that can be known before it runs."""

from collections.abc import Mapping
from typing import Final

from penstock.workflow.checks import agent, blocks, gates, parallel, plan, refine, route, runs
from penstock.workflow.checks.checker import Check, Checker, Place, Tasks
from penstock.workflow.checks.limits import check_limits
from penstock.workflow.definition import Chain, Definition, Parallel, RouteBlock
from penstock.workflow.faults import Fault, Files, Lines, Origins
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.loops import Agent, Plan, Refine
from penstock.workflow.parts import EmbedStep, ModelStep, RunStep, TaskStep, ToolStep, UndoTask, UndoTool
from penstock.workflow.shapes import TEXT, Shape, closed

CHECKS: Final[Mapping[type, Check]] = {
    Chain: blocks.check_chain,
    RouteBlock: route.check_route,
    Parallel: parallel.check_parallel,
    Gate: gates.check_gate,
    Sleep: gates.check_sleep,
    Plan: plan.check_plan,
    Refine: refine.check_refine,
    Agent: agent.check_agent,
    ModelStep: blocks.check_model,
    EmbedStep: blocks.check_embed,
    ToolStep: blocks.check_tool,
    TaskStep: blocks.check_task,
    RunStep: runs.check_run,
    UndoTool: blocks.check_tool,
    UndoTask: blocks.check_task,
}
RUN: Final[Shape] = closed(
    {name: TEXT for name in ("id", "tenant", "workflow", "version", "started_at")} | {"labels": None}
)


def check(
    definition: Definition, lines: Lines | None = None, files: Files | None = None, tasks: Tasks | None = None
) -> list[Fault]:
    """All faults of a definition, in its order; none means that it can be published.

    `files` says which texts came from files: a fault in one of those names the file and its line. With `tasks`, all
    that there are, task steps are held to what those take and give.
    """
    checker = Checker(definition, Origins(lines or {}, files or {}), CHECKS, tasks)
    checker.schema(definition.input, ("input",))
    check_limits(checker, definition)
    checker.block(definition.do, Place(("do",), {"input": definition.input or None, "run": RUN}))
    return checker.faults

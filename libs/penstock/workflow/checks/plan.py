"""Owns the check of `plan`: what its planner, its sub-tasks and its join see."""

from typing import Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_caps, check_loop_model
from penstock.workflow.checks.refine import declared
from penstock.workflow.loops import Plan
from penstock.workflow.shapes import Shape, closed, list_of

INTEGER: Final[Shape] = {"type": "integer"}


def check_plan(checker: Checker, block: Plan, place: Place) -> Shape:
    """The planner sees what the rounds before it brought, a sub-task only itself."""
    planner, path = block.plan, (*place.path, "plan")
    checker.tier(planner.model, (*path, "model"))
    checker.schema(planner.task_schema, (*path, "task_schema"))
    before = {"round": INTEGER, "results": list_of(_result(planner.task_schema, declared(block.do)))}
    checker.text(planner.prompt, (*path, "prompt"), {**place.scope, **before})
    if planner.system is not None:
        checker.text(planner.system, (*path, "system"), {**place.scope, **before})
    one = {"task": planner.task_schema, "index": INTEGER, "round": INTEGER}
    output = checker.block(block.do, place.inside("do", **one))
    results = list_of(_result(planner.task_schema, output))
    check_caps(checker, block.caps, (*place.path, "caps"))
    check_loop_model(checker, planner, place.inside("plan"), block.caps)
    if block.join is None:
        return results
    return checker.block(block.join, place.inside("join", results=results))


def _result(task: Shape, output: Shape) -> Shape:
    return closed({"task": task, "output": output})

"""Owns the checks of chains, and of model, tool and task steps."""

from dataclasses import replace

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_worst_case
from penstock.workflow.definition import Chain
from penstock.workflow.faults import nearest
from penstock.workflow.fitting import misfits
from penstock.workflow.gates import Gate
from penstock.workflow.parts import ModelStep, TaskStep, ToolStep
from penstock.workflow.shapes import TEXT, Shape


def check_chain(checker: Checker, block: Chain, place: Place) -> Shape:
    """Each block sees those before it, and what gates before it made sure of."""
    outer, shape = place, None
    for index, child in enumerate(block.chain):
        shape = checker.block(child, place.inside("chain", index))
        place = replace(place, scope={**place.scope, child.id: shape})
        if isinstance(child, Gate):
            place = place.after(child.check, holds=True)
    return shape if block.output is None else checker.value(block.output, (*outer.path, "output"), place.scope)


def check_model(checker: Checker, block: ModelStep, place: Place) -> Shape:
    """The output is text where no schema is given."""
    checker.tier(block.model, (*place.path, "model"))
    checker.text(block.prompt, (*place.path, "prompt"), place.scope)
    if block.system is not None:
        checker.text(block.system, (*place.path, "system"), place.scope)
    for index, example in enumerate(block.examples):
        checker.text(example.user, (*place.path, "examples", index, "user"), place.scope)
        checker.text(example.assistant, (*place.path, "examples", index, "assistant"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    check_worst_case(checker, block, place)
    return block.output_schema if block.output_schema is not None else TEXT


def check_tool(checker: Checker, block: ToolStep, place: Place) -> Shape:
    """Arguments are JSON with templates."""
    checker.value(block.arguments, (*place.path, "arguments"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    return block.output_schema


def check_task(checker: Checker, block: TaskStep, place: Place) -> Shape:
    """The input is JSON with templates; where the tasks are known, it fits what the task takes."""
    shape = checker.value(block.input, (*place.path, "input"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    known = None if checker.tasks is None else checker.tasks.get(block.task)
    if known is None:
        if checker.tasks is not None:
            text = f"no task is called `{block.task}`"
            checker.add((*place.path, "task"), text, nearest(block.task, checker.tasks, "tasks"))
        return block.output_schema
    for path, message, hint in misfits(shape, known.input):
        checker.add((*place.path, "input", *path), f"the task `{block.task}` refuses this: {message}", hint)
    return block.output_schema if block.output_schema is not None else known.output or None

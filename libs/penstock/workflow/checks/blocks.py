"""Owns the checks of chains, and of model, tool and task steps."""

from dataclasses import replace
from typing import Final

from penstock.contracts.regexes import RegexRefusedError, check_regex
from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_worst_case
from penstock.workflow.definition import Chain
from penstock.workflow.faults import nearest
from penstock.workflow.fitting import misfits
from penstock.workflow.gates import Gate
from penstock.workflow.parts import EmbedStep, ModelStep, TaskStep, ToolStep
from penstock.workflow.shapes import (
    NUMBER,
    TEXT,
    Shape,
    alternatives,
    item_of,
    items_min,
    list_of,
    said,
    types_of,
    union,
)

MIN_ITEMS: Final = "add `minItems: 1` to its schema, or ask in a route only `when` there is some"


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
    _check_bound(checker, block, place)
    if block.images is not None:
        _, shape = checker.typed(block.images, (*place.path, "images"), place.scope)
        if types_of(shape) and not types_of(shape) & {"object", "array"}:
            text = "`images` gives no blob reference and no list of them"
            checker.add((*place.path, "images"), text, "a reference is an object: {$blob, bytes, media_type}")
    check_worst_case(checker, block, place)
    if block.choices is not None:
        return _check_choices(checker, block.choices, place)
    return block.output_schema if block.output_schema is not None else TEXT


def _check_bound(checker: Checker, block: ModelStep, place: Place) -> None:
    """What the answer is held to, beside a schema."""
    bounds = [name for name in ("output_schema", "choices", "regex") if getattr(block, name) is not None]
    if len(bounds) > 1:
        checker.add((*place.path, bounds[1]), f"an answer is bound by one of {' and '.join(bounds)}", "drop the others")
    if block.regex is not None:
        try:
            check_regex(block.regex)
        except RegexRefusedError as error:
            checker.add((*place.path, "regex"), str(error), "no look-around, no references, no huge repetitions")


def _check_choices(checker: Checker, choices: list[str] | str, place: Place) -> Shape:
    """One of the choices, as far as they are known."""
    path = (*place.path, "choices")
    if isinstance(choices, list):
        if len(set(choices)) < len(choices):
            checker.add(path, "a choice stands twice")
        return {"type": "string", "enum": choices}
    _, shape = checker.typed(choices, path, place.scope)
    items, count_min = _listed(shape)
    if types_of(shape) - {"array"}:
        checker.add(path, f"choices are a list of texts, `{choices.strip()}` is {said(shape)}")
    elif types_of(items) - {"string"}:
        checker.add(path, f"choices are a list of texts, `{choices.strip()}` is a list of {said(items)}")
    elif count_min == 0:
        checker.add(path, f"`{choices.strip()}` may be an empty list, and nothing is one of it", MIN_ITEMS)
    return items if types_of(items) == {"string"} else TEXT


def _listed(shape: Shape) -> tuple[Shape, int]:
    """Of what is or may be a list: what its items can be, and how many there are at least; 1 where nothing is known."""
    lists = [each for each in alternatives(shape) or () if each["type"] == "array"]
    return union(*map(item_of, lists)), min(map(items_min, lists), default=1)


def check_embed(checker: Checker, block: EmbedStep, place: Place) -> Shape:
    """What is embedded is a text or a list of some; a vector comes back for each."""
    checker.tier(block.embed, (*place.path, "embed"))
    path = (*place.path, "input")
    shape = checker.value(block.input, path, place.scope)
    items, count_min = _listed(shape)
    if types_of(shape) - {"string", "array"}:
        checker.add(path, f"only texts can be embedded, and `input` is {said(shape)}")
    elif types_of(items) - {"string"}:
        checker.add(path, f"only texts can be embedded, and `input` is a list of {said(items)}")
    elif count_min == 0:
        checker.add(path, "`input` may be an empty list, of which there are no embeddings", MIN_ITEMS)
    return list_of(list_of(NUMBER), max(1, count_min))


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

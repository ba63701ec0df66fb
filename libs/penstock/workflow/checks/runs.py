"""Owns the check of steps that start child runs. Their workflow may be published later, so it is not looked for."""

from typing import Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.parts import RunStep
from penstock.workflow.shapes import TEXT, Shape, closed

STARTED: Final[Shape] = closed({"run_id": TEXT})
"""What a step that does not wait answers with."""


def check_run(checker: Checker, block: RunStep, place: Place) -> Shape:
    """The input is JSON with templates; only a run that is waited for has an output."""
    checker.value(block.input, (*place.path, "input"), place.scope)
    checker.schema(block.output_schema, (*place.path, "output_schema"))
    if block.wait:
        return block.output_schema
    if block.output_schema is not None:
        checker.add((*place.path, "output_schema"), "a run that is not waited for has no output", "drop it, or wait")
    return STARTED

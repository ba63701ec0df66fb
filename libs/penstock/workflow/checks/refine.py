"""Owns the check of `refine`: what its parts see, and that there is exactly one judge."""

from typing import Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_caps
from penstock.workflow.definition import Block
from penstock.workflow.loops import Refine
from penstock.workflow.parts import ModelStep, RunStep, TaskStep, ToolStep
from penstock.workflow.shapes import (
    INTEGER,
    NUMBER,
    TEXT,
    Missing,
    Shape,
    closed,
    look_up,
    nullable,
    said,
    types_of,
)

_NUMBERS: Final = frozenset({"integer", "number"})


def check_refine(checker: Checker, block: Refine, place: Place) -> Shape:
    """The generator sees the candidate before, the judge the one that it judges."""
    loop, path = block.refine, (*place.path, "refine")
    before = {"round": INTEGER, "candidate": nullable(declared(loop.generate)), "critique": None}
    candidate = checker.block(loop.generate, place.inside("refine", "generate", **before))
    judged = {"round": INTEGER, "candidate": candidate}
    if loop.evaluate is not None:
        shape = checker.block(loop.evaluate, place.inside("refine", "evaluate", **judged))
        _check_verdict(checker, shape, (*path, "evaluate"))
    scope = {**place.scope, **judged}
    if loop.score is not None:
        _, score = checker.typed(loop.score, (*path, "score"), scope)
        if types_of(score) - _NUMBERS:
            checker.add((*path, "score"), f"the score must be a number, it is {said(score)}")
    if loop.critique is not None:
        checker.value(loop.critique, (*path, "critique"), scope)
    if (loop.evaluate is None) == (loop.score is None):
        found = "has neither" if loop.score is None else "has both"
        checker.add(path, f"a refine needs `evaluate` or `score`, this {found}")
    if loop.evaluate is not None and loop.critique is not None:
        checker.add((*path, "critique"), "the critique is `evaluate`'s own", "drop it, or use `score` with it")
    check_caps(checker, loop.caps, (*path, "caps"))
    return closed({"candidate": candidate, "score": NUMBER, "rounds": INTEGER, "stopped": TEXT})


def declared(block: Block) -> Shape:
    """What a block says of its own output before it is checked; None where it says nothing."""
    match block:
        case ModelStep(output_schema=None):
            return TEXT
        case ModelStep() | ToolStep() | TaskStep() | RunStep(wait=True):
            return block.output_schema
        case _:
            return None


def _check_verdict(checker: Checker, shape: Shape, path: tuple[str | int, ...]) -> None:
    score = look_up(shape, "evaluate", "score")
    if isinstance(score, Missing):
        checker.add(path, f"its output must have a number `score`, but {score.message}", score.hint)
    elif score.absent:
        checker.add(path, f"its output must have a number `score`, but {score.absent}", score.hint)
    elif types_of(score.shape) - _NUMBERS:
        checker.add(path, f"its `score` must be a number, it is {said(score.shape)}")

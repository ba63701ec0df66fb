"""Owns the checks of routes: cases with names of their own, and one of both that chooses among them."""

from typing import Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.checks.limits import check_worst_case
from penstock.workflow.classify import CLASSIFY, ESCALATE, Classify, steps_of
from penstock.workflow.definition import Block, Case, RouteBlock
from penstock.workflow.faults import Path
from penstock.workflow.shapes import Shape, nullable, union

OTHERWISE: Final = "otherwise"


def check_route(checker: Checker, block: RouteBlock, place: Place) -> Shape:
    """Every case has a `when`, or the route a `classify`."""
    names: set[str] = set()
    shapes: list[Shape] = []
    for index, case in enumerate(block.route):
        at = (*place.path, "route", index)
        if case.case in names or case.case == OTHERWISE:
            checker.add((*at, "case"), f"the case `{case.case}` is taken", "each case needs a name of its own")
        names.add(case.case)
        taken = place
        if block.classify is not None:
            _check_described(checker, case, at, place)
        elif _check_when(checker, case, at, place):
            # A case is taken where its `when` holds, those after it where it did not.
            taken, place = place.after(case.when or "", holds=True), place.after(case.when or "", holds=False)
        shapes.append(_check_way(checker, block, case.do, taken.inside("route", index, "do")))
    if block.classify is not None:
        _check_classify(checker, block.classify, block.otherwise, place)
    if block.otherwise is not None:
        return union(*shapes, _check_way(checker, block, block.otherwise, place.inside("otherwise")))
    return union(*shapes) if block.classify is not None else nullable(union(*shapes))


def _check_when(checker: Checker, case: Case, at: Path, place: Place) -> bool:
    if case.when is None:
        checker.add((*at, "when"), "the field `when` is missing", "or give the route a `classify`: a model chooses")
        return False
    return checker.expression(case.when, (*at, "when"), place.scope) is not None


def _check_described(checker: Checker, case: Case, at: Path, place: Place) -> None:
    if case.when is not None:
        checker.add(
            (*at, "when"), "the route has a `classify`, so a model chooses the case", "take `when` or `classify` out"
        )
    checker.text(case.description, (*at, "description"), place.scope)


def _check_way(checker: Checker, route: RouteBlock, way: Block, place: Place) -> Shape:
    if route.classify is not None and way.id in (CLASSIFY, ESCALATE):
        checker.add((*place.path, "id"), f"`{way.id}` is the classifier's own step here", "choose another id")
    return checker.block(way, place)


def _check_classify(checker: Checker, classify: Classify, otherwise: Block | None, place: Place) -> None:
    at = (*place.path, "classify")
    checker.tier(classify.model, (*at, "model"))
    checker.text(classify.prompt, (*at, "prompt"), place.scope)
    if classify.system is not None:
        checker.text(classify.system, (*at, "system"), place.scope)
    if classify.escalate is not None:
        checker.tier(classify.escalate, (*at, "escalate"))
    known = len(checker.faults)
    for step in steps_of(classify, []):
        if len(checker.faults) == known:  # said once: both tiers are asked for as much
            check_worst_case(checker, step, place.inside("classify"))
    if classify.min_confidence > 0:
        return
    hint = "give `min_confidence`, from which a choice holds"
    if classify.escalate is not None:
        checker.add((*at, "escalate"), "nobody is ever asked here: with `min_confidence` 0 every choice holds", hint)
    if otherwise is not None:
        checker.add((*place.path, "otherwise"), "it is never taken: with `min_confidence` 0 every choice holds", hint)

"""Owns the checks of parallel blocks: what their branches see, and joins that can be reached."""

from typing import Any, Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.definition import Map, Parallel, Sections
from penstock.workflow.expressions import ExpressionError
from penstock.workflow.faults import Path
from penstock.workflow.joins import Election, Join, Quorum, Vote
from penstock.workflow.shapes import (
    INTEGER,
    TEXT,
    Shape,
    alternatives,
    closed,
    item_of,
    items_min,
    list_of,
    nullable,
    said,
    types_of,
    union,
)

FAILED: Final = closed(
    {"error": {"type": "object", "properties": {"code": TEXT, "message": TEXT}, "required": ["code", "message"]}}
)
"""What stands in the place of a branch that failed, where `join: best_effort` lets it."""
_NO_SCOPE: Final[dict[str, Any]] = {}


def check_parallel(checker: Checker, block: Parallel, place: Place) -> Shape:
    """Sections and votes do not see each other; a map goes over a list."""
    inner = block.parallel
    match inner:
        case Sections():
            _check_join(checker, inner.join, len(inner.sections), "there are {} sections", place)
            shapes = {
                child.id: checker.block(child, place.inside("parallel", "sections", index))
                for index, child in enumerate(inner.sections)
            }
            return closed({name: _joined(shape, inner.join) for name, shape in shapes.items()})
        case Map():
            _check_join(checker, inner.join, inner.items_max, "items_max allows {}", place)
            items = _items(checker, inner, (*place.path, "parallel", "map"), place)
            branch = place.inside("parallel", "do", item=item_of(items), index=INTEGER)
            shape = checker.block(inner.do, branch)
            return list_of(_joined(shape, inner.join), items_min(items))
        case Vote():
            return _check_vote(checker, inner.vote, place)


def _check_join(checker: Checker, join: Join, branches_max: int, there_are: str, place: Place) -> None:
    if isinstance(join, Quorum) and join.quorum > branches_max:
        text = f"a quorum of {join.quorum} cannot be reached: {there_are.format(branches_max)}"
        checker.add((*place.path, "parallel", "join", "quorum"), text)


def _joined(shape: Shape, join: Join) -> Shape:
    """What stands in the place of a branch."""
    if isinstance(join, Quorum):
        return nullable(shape)
    return shape if join == "all" else union(shape, FAILED)


def _check_vote(checker: Checker, election: Election, place: Place) -> Shape:
    at = (*place.path, "parallel", "vote")
    if election.needed > election.votes:
        checker.add((*at, "agree"), f"{election.needed} ballots cannot agree: there are {election.votes} votes")
    shape = ballot = checker.block(election.do, place.inside("parallel", "vote", "do", index=INTEGER))
    if election.by is not None:
        scope = {**place.scope, "output": shape, "index": INTEGER}
        _, ballot = checker.typed(election.by, (*at, "by"), scope)
    return closed({"winner": shape, "agree": INTEGER, "ballots": list_of(nullable(ballot), election.votes)})


def _items(checker: Checker, block: Map, path: Path, place: Place) -> Shape:
    """Checks what a map goes over; answers with the shape of the list."""
    compiled, shape = checker.typed(block.map, path, place.scope)
    if compiled is None:
        return None
    if not compiled.references:
        try:
            compiled(_NO_SCOPE.__getitem__)
        except ExpressionError as error:
            checker.add(path, str(error))
            return None
    types = types_of(shape)
    if types and types != {"array"}:
        source = block.map.strip()
        if "array" not in types:
            checker.add(path, f"`{source}` is not a list but {said(shape)}")
        else:
            text = f"`{source}` may be {said(union(*_others(shape)))}; a map goes over a list"
            checker.add(path, text, f"say what else it should go over: `{source} if {source} is sequence else []`")
    return shape


def _others(shape: Shape) -> list[Shape]:
    return [each for each in alternatives(shape) or () if each["type"] != "array"]

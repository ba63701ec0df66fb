"""Owns why a step may begin: read from the definition and the rows alone, without the core's frames.

For each row there is a cause, written down here a second time and from behind: the step before it in its chain is
over, its case was chosen, its round was decided on, its sub-task was planned, its call was not refused.
"""

import re
from collections.abc import Iterator
from typing import Any

from penstock.contracts.messages import StepPhase
from penstock.workflow.definition import Block, Chain, Map, Parallel, RouteBlock, Sections
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.joins import Vote
from penstock.workflow.loops import Agent, Plan, Refine
from penstock.workflow.parts import Leaf
from services.orchestrator.core.state import Run, Step

Rows = dict[str, Step]


def causeless(root: Block, run: Run) -> list[str]:
    """The paths of rows that began without a cause."""
    # What an undo takes back may be undone before what it caused, so that a redriven run has effects without causes.
    rows = {path: step for path, step in run.steps.items() if step.kind != "undo"}
    return [] if run.redrives else sorted(set(rows) - set(_caused(root, root.id, rows)))


def _caused(block: Block, path: str, rows: Rows) -> Iterator[str]:
    """Every row that may be there, given the others."""
    yield path
    match block:
        case Chain():
            for child in block.chain:
                yield from _caused(child, f"{path}/{child.id}", rows)
                if not _may_be_over(child, f"{path}/{child.id}", rows):
                    return
        case RouteBlock():
            yield from _route(block, path, rows)
        case Parallel():
            yield from _branches(block, path, rows)
        case Refine():
            yield from _rounds(block, path, rows)
        case Agent():
            yield from _turns(block, path, rows)
        case Plan():
            yield from _planned(block, path, rows)
        case _:
            pass


def _route(block: RouteBlock, path: str, rows: Rows) -> Iterator[str]:
    if block.classify is not None:
        yield f"{path}/classify"
        if _done(f"{path}/classify", rows):
            yield f"{path}/escalate"
    chosen = rows.get(path)
    ways = {case.case: case.do for case in block.route} | {"otherwise": block.otherwise}
    way = None if chosen is None or chosen.phase is not StepPhase.COMPLETED else ways[chosen.output]
    if way is not None:
        yield from _caused(way, f"{path}/{way.id}", rows)


def _branches(block: Parallel, path: str, rows: Rows) -> Iterator[str]:
    match block.parallel:
        case Sections() as inner:
            for child in inner.sections:
                yield from _caused(child, f"{path}/{child.id}", rows)
        case Map() as inner:
            counted = rows.get(path)
            for index in range(counted.output or 0 if counted is not None else 0):
                yield from _caused(inner.do, f"{path}[{index}]/{inner.do.id}", rows)
        case Vote() as inner:
            for index in range(inner.vote.votes):
                yield from _caused(inner.vote.do, f"{path}[{index}]/{inner.vote.do.id}", rows)


def _rounds(block: Refine, path: str, rows: Rows) -> Iterator[str]:
    loop = block.refine
    for number in range(loop.rounds_max):
        within = f"{path}[{number}]"
        yield from _caused(loop.generate, f"{within}/{loop.generate.id}", rows)
        if not _may_be_over(loop.generate, f"{within}/{loop.generate.id}", rows):
            return
        yield within
        if loop.evaluate is not None:
            yield from _caused(loop.evaluate, f"{within}/{loop.evaluate.id}", rows)
        verdict = rows.get(within)
        if verdict is None or verdict.output is None or verdict.output["score"] >= loop.bar:
            return


def _turns(block: Agent, path: str, rows: Rows) -> Iterator[str]:
    for number in range(block.agent.turns_max):
        within = f"{path}[{number}]"
        if number and block.agent.context.policy == "summarise":
            yield f"{within}/summary"
        yield f"{within}/turn"
        if not _done(f"{within}/turn", rows):
            return
        yield within
        judged = rows.get(within)
        if judged is None or judged.output is None:
            return
        for place, refused in enumerate(judged.output.get("refused", ())):
            if refused is None:
                yield f"{within}/call[{place}]"
        calls = [
            f"{within}/call[{place}]"
            for place, refused in enumerate(judged.output.get("refused", ()))
            if refused is None
        ]
        over = (StepPhase.COMPLETED, StepPhase.FAILED)
        if not all(call in rows and rows[call].phase in over for call in calls):
            return
        if "told" in judged.output and judged.output["told"] is None:
            return


def _planned(block: Plan, path: str, rows: Rows) -> Iterator[str]:
    first = 0
    for number in range(block.plan.rounds_max):
        within = f"{path}[{number}]"
        yield f"{within}/plan"
        if not _done(f"{within}/plan", rows):
            return
        tasks: list[Any] = rows[f"{within}/plan"].output["tasks"]
        if first + len(tasks) > block.plan.tasks_max:
            return
        paths = [f"{within}/task[{index}]/{block.do.id}" for index in range(len(tasks))]
        for each in paths:
            yield from _caused(block.do, each, rows)
        if not all(_may_be_over(block.do, each, rows) for each in paths):
            return
        first += len(tasks)
        if not tasks or first == block.plan.tasks_max:
            break
    if block.join is not None:
        yield from _caused(block.join, f"{path}/{block.join.id}", rows)


def _done(path: str, rows: Rows) -> bool:
    return path in rows and rows[path].phase is StepPhase.COMPLETED


def _may_be_over(block: Block, path: str, rows: Rows) -> bool:
    """Whether a block can have succeeded: exact for leaves, gates and sleeps, and for chains of them."""
    match block:
        case Leaf() | Gate() | Sleep():
            return _done(path, rows)
        case Chain():
            return all(_may_be_over(child, f"{path}/{child.id}", rows) for child in block.chain)
        case RouteBlock():
            return _done(path, rows)
        case Parallel(parallel=Map()):
            return _done(path, rows)
        case Parallel(parallel=Vote()):
            return _done(path, rows)
        case Refine():
            return _done(f"{path}[0]", rows)
        case Agent():
            return any(_done(each, rows) for each in rows if re.fullmatch(re.escape(path) + r"\[\d+\]", each))
        case Plan():
            return _done(f"{path}[0]/plan", rows)
        case Parallel(parallel=Sections(join="all") as inner):
            return all(_may_be_over(child, f"{path}/{child.id}", rows) for child in inner.sections)
        case _:
            return True

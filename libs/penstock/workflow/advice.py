"""Owns what is worth saying about a sound definition: what works, and will cost or hurt more than it has to."""

from collections.abc import Iterator, Mapping
from typing import Final

from penstock.workflow.checks.survey import Survey
from penstock.workflow.definition import Definition, Map, Parallel, tiers_named
from penstock.workflow.expressions import ExpressionError, compile_text
from penstock.workflow.faults import Fault, Lines, Path, fault
from penstock.workflow.loops import Agent, GrantedTool, Plan
from penstock.workflow.parts import ModelStep, ToolStep
from penstock.workflow.shapes import Shape, types_of
from penstock.workflow.sizes import shape_at
from penstock.workflow.tiers import routes_of
from penstock.workflow.worst_case import WorstCase

ITEMS_MAX_DEFAULT: Final = Map.model_fields["items_max"].default
STEPS_MAX_DEFAULT: Final = Definition.model_fields["steps_max"].default


def advice(definition: Definition, worst: WorstCase, lines: Lines | None = None) -> list[Fault]:
    """Warnings, in the order of the definition. A run is sound without heeding any of them."""
    survey = Survey(definition)
    found = [
        *_caps(definition, survey, worst),
        *_deadline(definition, worst),
        *_tiers(definition),
        *_retries(survey),
        *_growing(survey),
        *_planned(survey),
    ]
    return [fault(path, message, hint, lines) for path, message, hint in found]


Advice = tuple[Path, str, str]


def _caps(definition: Definition, survey: Survey, worst: WorstCase) -> Iterator[Advice]:
    loops = [(block, block.parallel) for block in survey.blocks.values() if isinstance(block, Parallel)]
    for block, inner in loops:
        if isinstance(inner, Map) and inner.items_max == ITEMS_MAX_DEFAULT and not _bounded(survey, block.id, inner):
            path = (*survey.places[block.id].path, "parallel")
            text = f"`{block.id}` goes over up to {ITEMS_MAX_DEFAULT} items, because nothing lowers the default"
            yield path, text, "set items_max, or maxItems in the list's schema"
    calls = worst.needed.model_calls
    if definition.budget is None and definition.steps_max == STEPS_MAX_DEFAULT and calls > STEPS_MAX_DEFAULT:
        text = f"one run could want {calls} model calls, and only the default of steps_max stops it"
        yield ("steps_max",), text, "set a budget or steps_max"


def _bounded(survey: Survey, block_id: str, inner: Map) -> bool:
    shape = shape_at(survey.places[block_id].scope, inner.map.strip())
    return shape is not None and "maxItems" in shape


def _deadline(definition: Definition, worst: WorstCase) -> Iterator[Advice]:
    needed = worst.needed.needed_seconds
    if needed > definition.deadline_seconds:
        text = (
            f"the deadline of {definition.deadline_seconds:g} s is shorter than the {needed:g} s that all timeouts and "
            "waits could take"
        )
        yield ("deadline_seconds",), text, "raise it, or lower timeouts, attempts or items"


def _tiers(definition: Definition) -> Iterator[Advice]:
    used = set(tiers_named(definition.do))
    for name, tier in definition.tiers.items():
        if name in used and len(routes_of(tier)) == 1:
            text = f"the tier `{name}` has one route: when it is away there is nowhere else to go"
            yield ("tiers", name), text, "add a second route"


def _retries(survey: Survey) -> Iterator[Advice]:
    hint = "say `idempotent: true` where calling it twice does no harm, else `retry: {attempts: 1}`"
    for block in survey.blocks.values():
        path = survey.places[block.id].path
        tools: list[tuple[Path, ToolStep | GrantedTool]] = [(path, block)] if isinstance(block, ToolStep) else []
        if isinstance(block, Agent):
            granted = enumerate(block.agent.tools)
            tools = [((*path, "agent", "tools", n), grant) for n, grant in granted if isinstance(grant, GrantedTool)]
        for at, tool in tools:
            if not tool.idempotent and tool.retry.attempts > 1:
                text = f"`{block.id}` may call {tool.tool} {tool.retry.attempts} times, and it is not marked idempotent"
                yield (*at, "retry"), text, hint


def _planned(survey: Survey) -> Iterator[Advice]:
    """Planners that are shown all results so far, round after round."""
    for block in survey.blocks.values():
        if not isinstance(block, Plan) or block.plan.rounds_max == 1:
            continue
        for name, source in (("prompt", block.plan.prompt), ("system", block.plan.system)):
            if "results" in _references(source):
                text = f"the {name} of `{block.id}`'s planner grows with every round: it holds all `results` so far"
                yield (*survey.places[block.id].path, "plan", name), text, "name the fields it needs"


def _growing(survey: Survey) -> Iterator[Advice]:
    """Prompts that hold what a loop made: all outputs of a map, whatever their number."""
    loops = {
        block.id: block
        for block in survey.blocks.values()
        if isinstance(block, Parallel) and isinstance(block.parallel, Map)
    }
    for block in survey.blocks.values():
        if not isinstance(block, ModelStep):
            continue
        for name, source in (("prompt", block.prompt), ("system", block.system)):
            path = (*survey.places[block.id].path, name)
            for dotted in _references(source):
                head = dotted.split(".", 1)[0]
                around = [each for each in loops.values() if _inside(path, survey.places[each.id].path)]
                if head in loops and _whole(survey.scopes.get(path, {}), dotted):
                    text = f"the {name} of `{block.id}` grows with every item of `{head}`"
                    yield path, text, "name the fields it needs, shorten the list, or summarise each item first"
                elif any(_goes_over(each, dotted) for each in around):
                    text = f"the {name} of `{block.id}` holds all of `{dotted}`, for each item of it again"
                    yield path, text, "use `item`, or what each item needs of the others"


def _inside(path: Path, outer: Path) -> bool:
    return path[: len(outer)] == outer


def _goes_over(block: Parallel, dotted: str) -> bool:
    return isinstance(block.parallel, Map) and block.parallel.map.strip() == dotted


def _references(source: str | None) -> list[str]:
    try:
        return [] if source is None else list(dict.fromkeys(each.dotted for each in compile_text(source).references))
    except ExpressionError:
        return []


def _whole(scope: Mapping[str, Shape], dotted: str) -> bool:
    """Whether a reference is to a list, and not to one of its items."""
    return types_of(shape_at(scope, dotted)) in (frozenset(), frozenset({"array"}))

"""Owns what one run can come to at worst, from its caps alone: calls, tokens, money, time.

A bound, not a guess: no run uses more, whatever its models answer (one that is redriven is more than one). Tokens of
a prompt are its bytes at most; where no schema bounds a value, the engine's limit on a request does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Final

import orjson

from penstock.contracts.model_calls import IMAGE_TOKENS_MAX, IMAGES_MAX, INPUT_TOKENS, INPUTS_MAX
from penstock.workflow.checks.survey import Survey
from penstock.workflow.classify import steps_of
from penstock.workflow.definition import Block, Chain, Definition, Map, Parallel, RouteBlock, Sections, children
from penstock.workflow.expressions import whole_expression
from penstock.workflow.faults import Path
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.joins import Vote
from penstock.workflow.loops import LOOP_NAMES, PLANNER, Agent, AgentLoop, Plan, Refine
from penstock.workflow.parts import EmbedStep, Leaf, ModelStep, RunStep, TaskStep, ToolStep
from penstock.workflow.shapes import types_of
from penstock.workflow.sizes import REQUEST_BYTES_MAX, shape_at, text_bytes
from penstock.workflow.tiers import Route, routes_of
from penstock.workflow.worst import NOTHING, Money, Worst, all_of, capped, combined, of_calls, side_by_side, within

MESSAGE_TOKENS: Final = 16
"""What a chat template adds to each message at most."""
REPAIR_BYTES: Final = 2_200
"""What is said to a model whose answer was invalid."""
MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What one run comes to at worst: `bound` within its caps, `needed` if they were not there."""

    bound: Worst
    needed: Worst
    deadline_seconds: float
    caps: tuple[str, ...]
    """The caps that make the bound smaller than what would be needed."""


def worst_case(definition: Definition, known: Mapping[str, Definition] | None = None) -> WorstCase:
    """What one run of a sound definition comes to at worst, with the child runs of workflows in `known`, by name."""
    return _worst_case(definition, known or {}, frozenset())


def _worst_case(definition: Definition, known: Mapping[str, Definition], above: frozenset[str]) -> WorstCase:
    needed = _Reckoning(definition, known, above | {definition.name}).block(definition.do)
    bound, caps = needed, []
    if bound.requests > definition.steps_max:
        caps.append("steps_max")
        bound = of_calls(replace(bound, requests=definition.steps_max), definition.steps_max)
    if definition.budget is not None:
        bound, reached = capped(bound, definition.budget)
        caps.extend(f"budget.{cap}" for cap in reached)
    if bound.needed_seconds > definition.deadline_seconds:
        bound = replace(bound, needed_seconds=definition.deadline_seconds)
    if bound.undos:
        bound = replace(bound, needed_seconds=bound.needed_seconds + definition.undo_seconds)
    return WorstCase(bound, needed, definition.deadline_seconds, tuple(caps))


class _Reckoning:
    """Adds up one definition."""

    def __init__(self, definition: Definition, known: Mapping[str, Definition], above: frozenset[str]) -> None:
        self.tiers = definition.tiers
        self._known = known
        self._above = above
        """This workflow and those whose runs ask for its: one that is asked for again has no bound here."""
        self.survey = Survey(definition)
        self._texts = {
            each.id: each.max_tokens
            for each in self.survey.blocks.values()
            if isinstance(each, ModelStep) and each.output_schema is None and each.id not in LOOP_NAMES
        }
        """What a text of a model's may have in tokens where it is part of another prompt."""

    def block(self, block: Block) -> Worst:
        """A block with all that is inside it."""
        rule = RULES.get(type(block))
        if rule is not None:
            return rule(self, block)
        inside = [self.block(child) for child in children(block)]
        return replace(all_of(inside), uncounted=frozenset({block.id}))

    def path(self, block: Block) -> Path:
        """Where the block stands."""
        return self.survey.places[block.id].path

    def leaf(self, step: Leaf) -> Worst:
        """A leaf's attempts and the waits between them."""
        attempts, retry = step.retry.attempts, step.retry
        waits_ms = [min(retry.max_ms, retry.initial_ms * 2 ** (attempt - 2)) for attempt in range(2, attempts + 1)]
        seconds = attempts * step.timeout_seconds + sum(waits_ms) / 1000
        if step.step_timeout_seconds is not None:
            seconds = min(seconds, step.step_timeout_seconds)
        undos = 0 if step.undo is None else step.undo.retry.attempts
        return Worst(requests=attempts, undos=undos, needed_seconds=seconds)

    def child(self, step: RunStep) -> Worst:
        """A child run's time is its step's, its requests are its own; what its models cost is on this run's bill.

        One that is not waited for has a bill of its own.
        """
        worst = self.leaf(step) if step.wait else Worst(requests=1)
        name = step.run.partition("@")[0]
        if not step.wait or name not in self._known or name in self._above:
            return replace(worst, uncounted=frozenset({step.id}))
        run = within(_worst_case(self._known[name], self._known, self._above).bound, step.budget)
        runs = replace(run.times(step.retry.attempts), requests=0, undos=0, needed_seconds=0.0)
        return worst.then(replace(runs, uncounted=frozenset(f"{step.id}/{inner}" for inner in run.uncounted)))

    def model(self, step: ModelStep) -> Worst:
        """A model step: each attempt may be paid for, on the dearest route."""
        return self.asks(step, (*self.path(step), "prompt"), step.id)

    def asks(self, step: ModelStep, prompt: Path | None, name: str) -> Worst:
        """The attempts of a model step whose texts see what the template at `prompt` sees; None: they hold more."""
        shown = [text for example in step.examples for text in (example.user, example.assistant)]
        texts = [step.prompt, *shown] if step.system is None else [step.prompt, step.system, *shown]
        scope = self.survey.scopes.get(prompt or (), {})
        sizes = [None if prompt is None else text_bytes(source, scope, self._texts) for source in texts]
        # Some endpoints count the schema as part of the prompt.
        listed = step.choices
        if isinstance(listed, str):
            sizes.append(text_bytes(f"{{{{ {listed.strip()} }}}}", scope, {}))
            listed = None
        bound = (step.output_schema, listed, step.regex)
        bound_bytes = sum(len(orjson.dumps(each)) for each in bound if each is not None)
        images = 0 if step.images is None else IMAGES_MAX * IMAGE_TOKENS_MAX
        added = MESSAGE_TOKENS * (len(texts) + 1) + bound_bytes + images
        limit = REQUEST_BYTES_MAX + added
        bounded = sum(size for size in sizes if size is not None) + REPAIR_BYTES + added
        input_tokens = limit if None in sizes else min(limit, bounded)
        unbounded = frozenset({name} if None in sizes else ())
        return self._attempts(step, step.model, (input_tokens, step.max_tokens), unbounded)

    def embed(self, step: EmbedStep) -> Worst:
        """An embedding: each attempt may be paid for, on the dearest route; it answers with no tokens."""
        scope = self.survey.places[step.id].scope
        given = step.input if isinstance(step.input, list) else [step.input]
        sizes = [text_bytes(source, scope, self._texts) for source in given]
        size_bytes = REQUEST_BYTES_MAX if None in sizes else min(REQUEST_BYTES_MAX, sum(filter(None, sizes)))
        texts = sum(_texts_max(source, scope) for source in given)
        unbounded = frozenset({step.id} if None in sizes else ())
        return self._attempts(step, step.embed, (size_bytes + INPUT_TOKENS * min(texts, INPUTS_MAX), 0), unbounded)

    def _attempts(self, step: Leaf, tier: str, tokens: tuple[int, int], unbounded: frozenset[str]) -> Worst:
        """The attempts of one call with so many input and output tokens."""
        input_tokens, output_tokens = tokens
        routes = routes_of(self.tiers[tier]) if tier in self.tiers else ()
        prices = [_price(route, input_tokens, output_tokens) for route in routes]
        attempts = step.retry.attempts
        one: Money = reduce(lambda left, right: combined(left, right, max), prices, {})
        return replace(
            self.leaf(step),
            model_calls=attempts,
            input_tokens=attempts * input_tokens,
            output_tokens=attempts * output_tokens,
            cost={currency: attempts * amount for currency, amount in one.items()},
            call_input_tokens=input_tokens,
            call_output_tokens=output_tokens,
            call_cost=one,
            unpriced=frozenset(f"{route.pool}/{route.model}" for route in routes if route.price is None),
            unbounded=unbounded,
        )


def _chain(reckoning: _Reckoning, block: Chain) -> Worst:
    return all_of([reckoning.block(child) for child in block.chain])


def _route(reckoning: _Reckoning, block: RouteBlock) -> Worst:
    way = reduce(Worst.otherwise, [reckoning.block(child) for child in children(block)], NOTHING)
    if block.classify is None:
        return way
    scope_of = (*reckoning.path(block), "classify", "prompt")
    asked = steps_of(block.classify, [(case.case, case.description) for case in block.route])
    return all_of([reckoning.asks(step, scope_of, f"{block.id}/{step.id}") for step in asked]).then(way)


def _refine(reckoning: _Reckoning, block: Refine) -> Worst:
    return all_of([reckoning.block(child) for child in children(block)]).times(block.refine.rounds_max)


def _sleep(_reckoning: _Reckoning, block: Sleep) -> Worst:
    return Worst(needed_seconds=block.sleep if isinstance(block.sleep, float) else block.sleep_seconds_max)


def _agent(reckoning: _Reckoning, block: Agent) -> Worst:
    """Each turn asks the model, perhaps for a summary too; the calls of a turn run side by side."""
    loop = block.agent
    turn = reckoning.asks(_said_by(loop), None, f"{block.id}/turn")
    turns = turn.times(loop.turns_max * (2 if loop.context.policy == "summarise" else 1))
    call = reduce(Worst.otherwise, [reckoning.leaf(grant.step()) for grant in loop.tools], NOTHING)
    in_order = min(loop.turns_max, loop.tool_calls_max)
    calls = replace(call.times(loop.tool_calls_max), needed_seconds=call.needed_seconds * in_order)
    return within(turns.then(calls), loop.caps)


def _plan(reckoning: _Reckoning, block: Plan) -> Worst:
    """The planner each round; the sub-tasks of all rounds, of which the smallest round has one."""
    planner = block.plan
    planned = reckoning.asks(planner.step(), None, f"{block.id}/{PLANNER}").times(planner.rounds_max)
    task = reckoning.block(block.do)
    in_order = min(planner.tasks_max, planner.rounds_max + planner.tasks_max // block.max_concurrency)
    tasks = replace(task.times(planner.tasks_max), needed_seconds=task.needed_seconds * in_order)
    joined = NOTHING if block.join is None else reckoning.block(block.join)
    return within(planned.then(tasks).then(joined), block.caps)


def _said_by(loop: AgentLoop) -> ModelStep:
    """The step that one turn of an agent is, as far as its caps go."""
    return ModelStep(
        id="turn",
        model=loop.model,
        prompt=loop.prompt,
        max_tokens=loop.max_tokens,
        timeout_seconds=loop.timeout_seconds,
        retry=loop.retry,
    )


def _parallel(reckoning: _Reckoning, block: Parallel) -> Worst:
    inner = block.parallel
    match inner:
        case Sections():
            return side_by_side([reckoning.block(child) for child in inner.sections], inner.max_concurrency)
        case Map():
            return reckoning.block(inner.do).times(_items_max(reckoning, block, inner), inner.max_concurrency)
        case Vote():
            return reckoning.block(inner.vote.do).times(inner.vote.votes, inner.vote.max_concurrency)


def _items_max(reckoning: _Reckoning, block: Parallel, inner: Map) -> int:
    """How many items a map can have: its own cap, or that of the list's schema."""
    shape = shape_at(reckoning.survey.places[block.id].scope, inner.map.strip())
    count = None if shape is None or shape.get("type") != "array" else shape.get("maxItems")
    return min(inner.items_max, count) if isinstance(count, int) else inner.items_max


def _texts_max(source: str, scope: Mapping[str, Any]) -> int:
    """How many texts a template gives at most."""
    expression = whole_expression(source)
    if expression is None:
        return 1
    shape = shape_at(scope, expression) or {}
    if types_of(shape) == {"string"}:
        return 1
    count = shape.get("maxItems")
    return count if isinstance(count, int) else INPUTS_MAX


def _price(route: Route, input_tokens: int, output_tokens: int) -> Money:
    if route.price is None:
        return {}
    amount = input_tokens * route.price.input_per_million + output_tokens * route.price.output_per_million
    return {route.price.currency: amount / MILLION}


RULES: Final[Mapping[type, Callable[[_Reckoning, Any], Worst]]] = {
    Chain: _chain,
    RouteBlock: _route,
    Refine: _refine,
    Agent: _agent,
    Plan: _plan,
    Parallel: _parallel,
    Gate: lambda _reckoning, _block: NOTHING,
    Sleep: _sleep,
    ModelStep: _Reckoning.model,
    EmbedStep: _Reckoning.embed,
    ToolStep: _Reckoning.leaf,
    TaskStep: _Reckoning.leaf,
    RunStep: _Reckoning.child,
}
"""What each kind of block comes to; of a kind that is not here only its parts are counted, and it is named."""

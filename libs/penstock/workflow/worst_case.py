"""Owns what one run can come to at worst, from its caps alone: calls, tokens, money, time.

A bound, not a guess: no run uses more, whatever its models answer (one that is redriven is more than one). Tokens of
a prompt are its bytes at most; where no schema bounds a value, the engine's limit on a request does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from typing import Any, Final

import orjson

from penstock.contracts.model_calls import IMAGE_TOKENS_MAX, IMAGES_MAX
from penstock.workflow.checks.survey import Survey
from penstock.workflow.classify import steps_of
from penstock.workflow.definition import Block, Chain, Definition, Map, Parallel, RouteBlock, Sections, children
from penstock.workflow.faults import Path
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.joins import Vote
from penstock.workflow.loops import LOOP_NAMES, PLANNER, Agent, AgentLoop, Plan, Refine
from penstock.workflow.parts import Caps, Leaf, ModelStep, RunStep, TaskStep, ToolStep
from penstock.workflow.sizes import REQUEST_BYTES_MAX, shape_at, text_bytes
from penstock.workflow.tiers import Route, routes_of

MESSAGE_TOKENS: Final = 16
"""What a chat template adds to each message at most."""
REPAIR_BYTES: Final = 2_200
"""What is said to a model whose answer was invalid."""
MILLION: Final = 1_000_000

Money = Mapping[str, Decimal]
"""Amounts by currency."""


@dataclass(frozen=True, slots=True)
class Worst:
    """What a block comes to at worst. `call_*` are of its largest single model call."""

    requests: int = 0
    undos: int = 0
    """Requests that undo what completed where the run fails: beside `requests`, and after the deadline."""
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Money = field(default_factory=dict)
    call_input_tokens: int = 0
    call_output_tokens: int = 0
    call_cost: Money = field(default_factory=dict)
    needed_seconds: float = 0.0
    """What it takes where every attempt takes its timeout, and no executor asks for a longer wait than `retry` has."""
    unpriced: frozenset[str] = frozenset()
    """Routes without a price: `cost` leaves their calls out."""
    unbounded: frozenset[str] = frozenset()
    """Model steps whose prompt only the engine's limit bounds."""
    uncounted: frozenset[str] = frozenset()
    """Blocks of which nothing can be said here, as child runs."""

    def then(self, other: "Worst") -> "Worst":
        """Both, one after the other."""
        return Worst(
            requests=self.requests + other.requests,
            undos=self.undos + other.undos,
            model_calls=self.model_calls + other.model_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=_joined(self.cost, other.cost, lambda one, two: one + two),
            needed_seconds=self.needed_seconds + other.needed_seconds,
            **self._either(other),
        )

    def beside(self, other: "Worst") -> "Worst":
        """Both, at the same time."""
        return replace(self.then(other), needed_seconds=max(self.needed_seconds, other.needed_seconds))

    def otherwise(self, other: "Worst") -> "Worst":
        """One of the two, nobody knows which."""
        return Worst(
            requests=max(self.requests, other.requests),
            undos=max(self.undos, other.undos),
            model_calls=max(self.model_calls, other.model_calls),
            input_tokens=max(self.input_tokens, other.input_tokens),
            output_tokens=max(self.output_tokens, other.output_tokens),
            cost=_joined(self.cost, other.cost, max),
            needed_seconds=max(self.needed_seconds, other.needed_seconds),
            **self._either(other),
        )

    def times(self, count: int, at_once: int = 1) -> "Worst":
        """The same again and again, `at_once` of them at the same time."""
        return replace(
            self,
            requests=self.requests * count,
            undos=self.undos * count,
            model_calls=self.model_calls * count,
            input_tokens=self.input_tokens * count,
            output_tokens=self.output_tokens * count,
            cost={currency: amount * count for currency, amount in self.cost.items()},
            needed_seconds=self.needed_seconds * -(-count // at_once),
        )

    def _either(self, other: "Worst") -> dict[str, Any]:
        return {
            "call_input_tokens": max(self.call_input_tokens, other.call_input_tokens),
            "call_output_tokens": max(self.call_output_tokens, other.call_output_tokens),
            "call_cost": _joined(self.call_cost, other.call_cost, max),
            "unpriced": self.unpriced | other.unpriced,
            "unbounded": self.unbounded | other.unbounded,
            "uncounted": self.uncounted | other.uncounted,
        }


NOTHING: Final = Worst()


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
        bound = _of_calls(replace(bound, requests=definition.steps_max), definition.steps_max)
    if definition.budget is not None:
        bound, reached = _capped(bound, definition.budget)
        caps.extend(f"budget.{cap}" for cap in reached)
    if bound.needed_seconds > definition.deadline_seconds:
        bound = replace(bound, needed_seconds=definition.deadline_seconds)
    if bound.undos:
        bound = replace(bound, needed_seconds=bound.needed_seconds + definition.undo_seconds)
    return WorstCase(bound, needed, definition.deadline_seconds, tuple(caps))


def _capped(worst: Worst, caps: Caps) -> tuple[Worst, list[str]]:
    """What is left of a worst case under caps, and which of them lower it."""
    reached: list[str] = []
    if caps.model_calls is not None and worst.model_calls > caps.model_calls:
        reached.append("model_calls")
        worst = _of_calls(worst, caps.model_calls)
    if caps.tokens is not None and worst.input_tokens + worst.output_tokens > caps.tokens:
        reached.append("tokens")
        input_tokens, output_tokens = min(worst.input_tokens, caps.tokens), min(worst.output_tokens, caps.tokens)
        worst = replace(worst, input_tokens=input_tokens, output_tokens=output_tokens)
    # A call without a price may be made as long as anything is left: nothing bounds what that one costs.
    money = None if worst.unpriced else caps.cost
    if money is not None and worst.cost.get(money.currency, Decimal(0)) > money.amount:
        reached.append("cost")
        worst = replace(worst, cost={**worst.cost, money.currency: money.amount})
    return worst, reached


def _of_calls(worst: Worst, calls_max: int) -> Worst:
    """No more than so many model calls, each as large as the largest."""
    calls = min(worst.model_calls, calls_max)
    return replace(
        worst,
        model_calls=calls,
        input_tokens=min(worst.input_tokens, calls * worst.call_input_tokens),
        output_tokens=min(worst.output_tokens, calls * worst.call_output_tokens),
        cost={name: min(amount, calls * worst.call_cost.get(name, amount)) for name, amount in worst.cost.items()},
    )


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
        return replace(_all(inside), uncounted=frozenset({block.id}))

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
        run = _within(_worst_case(self._known[name], self._known, self._above).bound, step.budget)
        runs = replace(run.times(step.retry.attempts), requests=0, undos=0, needed_seconds=0.0)
        return worst.then(replace(runs, uncounted=frozenset(f"{step.id}/{inner}" for inner in run.uncounted)))

    def model(self, step: ModelStep) -> Worst:
        """A model step: each attempt may be paid for, on the dearest route."""
        return self.asks(step, (*self.path(step), "prompt"), step.id)

    def asks(self, step: ModelStep, prompt: Path | None, name: str) -> Worst:
        """The attempts of a model step whose texts see what the template at `prompt` sees; None: they hold more."""
        shown = [text for example in step.examples for text in (example.user, example.assistant)]
        texts = [step.prompt, *shown] if step.system is None else [step.prompt, step.system, *shown]
        tier, max_tokens = step.model, step.max_tokens
        scope = self.survey.scopes.get(prompt or (), {})
        sizes = [None if prompt is None else text_bytes(source, scope, self._texts) for source in texts]
        # Some endpoints count the schema as part of the prompt.
        bound = (step.output_schema, step.choices, step.regex)
        bound_bytes = sum(len(orjson.dumps(each)) for each in bound if each is not None)
        images = 0 if step.images is None else IMAGES_MAX * IMAGE_TOKENS_MAX
        added = MESSAGE_TOKENS * (len(texts) + 1) + bound_bytes + images
        limit = REQUEST_BYTES_MAX + added
        bounded = sum(size for size in sizes if size is not None) + REPAIR_BYTES + added
        input_tokens = limit if None in sizes else min(limit, bounded)
        routes = routes_of(self.tiers[tier]) if tier in self.tiers else ()
        prices = [_price(route, input_tokens, max_tokens) for route in routes]
        attempts = step.retry.attempts
        one: Money = reduce(lambda left, right: _joined(left, right, max), prices, {})
        return replace(
            self.leaf(step),
            model_calls=attempts,
            input_tokens=attempts * input_tokens,
            output_tokens=attempts * max_tokens,
            cost={currency: attempts * amount for currency, amount in one.items()},
            call_input_tokens=input_tokens,
            call_output_tokens=max_tokens,
            call_cost=one,
            unpriced=frozenset(f"{route.pool}/{route.model}" for route in routes if route.price is None),
            unbounded=frozenset({name} if None in sizes else ()),
        )


def _chain(reckoning: _Reckoning, block: Chain) -> Worst:
    return _all([reckoning.block(child) for child in block.chain])


def _route(reckoning: _Reckoning, block: RouteBlock) -> Worst:
    way = reduce(Worst.otherwise, [reckoning.block(child) for child in children(block)], NOTHING)
    if block.classify is None:
        return way
    scope_of = (*reckoning.path(block), "classify", "prompt")
    asked = steps_of(block.classify, [(case.case, case.description) for case in block.route])
    return _all([reckoning.asks(step, scope_of, f"{block.id}/{step.id}") for step in asked]).then(way)


def _refine(reckoning: _Reckoning, block: Refine) -> Worst:
    return _all([reckoning.block(child) for child in children(block)]).times(block.refine.rounds_max)


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
    return _within(turns.then(calls), loop.caps)


def _plan(reckoning: _Reckoning, block: Plan) -> Worst:
    """The planner each round; the sub-tasks of all rounds, of which the smallest round has one."""
    planner = block.plan
    planned = reckoning.asks(planner.step(), None, f"{block.id}/{PLANNER}").times(planner.rounds_max)
    task = reckoning.block(block.do)
    in_order = min(planner.tasks_max, planner.rounds_max + planner.tasks_max // block.max_concurrency)
    tasks = replace(task.times(planner.tasks_max), needed_seconds=task.needed_seconds * in_order)
    joined = NOTHING if block.join is None else reckoning.block(block.join)
    return _within(planned.then(tasks).then(joined), block.caps)


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


def _within(worst: Worst, caps: Caps | None) -> Worst:
    return worst if caps is None else _capped(worst, caps)[0]


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


def side_by_side(parts: list[Worst], at_once: int) -> Worst:
    """Blocks at the same time, no more than `at_once` of them."""
    longest = max((part.needed_seconds for part in parts), default=0.0)
    total = _all(parts)
    if at_once >= len(parts):
        return replace(total, needed_seconds=longest)
    # However they are taken up: nobody idles while there is work (Graham's bound).
    return replace(total, needed_seconds=(total.needed_seconds - longest) / at_once + longest)


def _all(parts: list[Worst]) -> Worst:
    return reduce(Worst.then, parts, NOTHING)


def _price(route: Route, input_tokens: int, output_tokens: int) -> Money:
    if route.price is None:
        return {}
    amount = input_tokens * route.price.input_per_million + output_tokens * route.price.output_per_million
    return {route.price.currency: amount / MILLION}


def _joined(one: Money, other: Money, how: Callable[[Decimal, Decimal], Decimal]) -> Money:
    nothing = Decimal(0)
    return {name: how(one.get(name, nothing), other.get(name, nothing)) for name in sorted({*one, *other})}


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
    ToolStep: _Reckoning.leaf,
    TaskStep: _Reckoning.leaf,
    RunStep: _Reckoning.child,
}
"""What each kind of block comes to; of a kind that is not here only its parts are counted, and it is named."""

"""Owns the properties of the state machine: random definitions, told random, repeated, reordered and late events."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from penstock.contracts.messages import NextMove, StepPhase
from penstock.testkit.builders import a_definition, failed, succeeded, tokens
from penstock.workflow.definition import Block, Chain, Definition, Map, Parallel, RouteBlock, Sections, every_block
from penstock.workflow.definition import children as children_of
from penstock.workflow.joins import Vote
from penstock.workflow.loops import Agent, Refine
from penstock.workflow.parts import RETRIED_MOVES
from services.orchestrator.core.accounts import CAPS, account_of, limit_of
from services.orchestrator.core.decide import AlarmDue, Cancelled, Outcome, Redriven
from services.orchestrator.core.state import Decision, Request
from services.orchestrator.core.tests.conversation import Conversation, said
from services.orchestrator.core.tests.drawn_loops import agents, loop_outputs, refines

AWAITED = (StepPhase.WAITING, StepPhase.RETRYING)
CHOICES = [{"case": "c0", "confidence": 0.9}, {"case": "c1", "confidence": 0.2}, {"case": "c0", "confidence": 0.5}]
OUTPUTS = [
    None,
    1,
    {"score": 1, "critique": "no"},
    "text",
    {"kind": "b", "items": []},
    {"items": [3, 4, 5]},
    [1, None],
    {"kind": "a", "items": [1, 2]},
]
MOVES = list(NextMove)
NESTED = ("chain", "route", "sections", "map", "classify", "vote", "refine", "agent")


@st.composite
def blocks(draw: st.DrawFn, number: Iterator[int], seen: tuple[str, ...], depth: int) -> dict[str, Any]:
    """A block whose templates use the ids in `seen`, well or badly."""
    block_id = f"b{next(number)}"
    kinds = ["task", "task", "model", "tool", "check"] + ([*NESTED, *NESTED] if depth else [])
    source = draw(st.sampled_from([f"{{{{ {name} }}}}" for name in seen] + [f"{{{{ {name}.kind }}}}" for name in seen]))
    whole_seconds = draw(st.sampled_from([None, None, 8]))
    leaf = {"id": block_id, "timeout_seconds": draw(st.sampled_from([5, 60])), "retry": draw(RETRIES)}
    leaf |= {} if whole_seconds is None else {"step_timeout_seconds": whole_seconds}
    match draw(st.sampled_from(kinds)):
        case "task":
            return {**leaf, "task": "tasks.work", "input": draw(st.sampled_from([{}, source]))}
        case "tool":
            return {**leaf, "tool": "files.read", "arguments": {"path": source}}
        case "model":
            schema = draw(st.sampled_from([None, {"type": "object", "required": ["kind"]}]))
            return {**leaf, "model": "small", "prompt": f"Say {source}", "output_schema": schema}
        case "check":
            return {"id": block_id, "check": draw(conditions(seen)), "message": draw(st.sampled_from(["", source]))}
        case "route":
            ways = [
                {"case": f"c{index}", "when": draw(conditions(seen)), "do": draw(blocks(number, seen, depth - 1))}
                for index in range(draw(st.integers(1, 2)))
            ]
            otherwise = draw(blocks(number, seen, depth - 1)) if draw(st.booleans()) else None
            return {"id": block_id, "route": ways, "otherwise": otherwise}
        case "classify":
            return draw(classified(number, seen, depth, block_id))
        case "sections":
            inside = [draw(blocks(number, seen, depth - 1)) for _ in range(draw(st.integers(1, 3)))]
            return {"id": block_id, "parallel": {"sections": inside, **draw(JOINS)}}
        case "map":
            over = draw(st.sampled_from(["range(3)", "input.items", f"{seen[-1]}.items"]))
            inside = [draw(blocks(number, (*seen, "item"), depth - 1))]
            return {"id": block_id, "parallel": {"map": over, "do": inside[0], **draw(JOINS)}}
        case "agent":
            return draw(agents(block_id, source))
        case "refine":
            return draw(refines(block_id, lambda *names: blocks(number, (*seen, *names), depth - 1)))
        case "vote":
            inside = [draw(blocks(number, (*seen, "index"), depth - 1))]
            return {"id": block_id, "parallel": {"vote": {"do": inside[0], **draw(ELECTIONS)}}}
        case _:
            return draw(chains(number, seen, depth, block_id))


@st.composite
def classified(
    draw: st.DrawFn, number: Iterator[int], seen: tuple[str, ...], depth: int, block_id: str
) -> dict[str, Any]:
    """A route that a model decides."""
    ways = [
        {"case": f"c{index}", "do": draw(blocks(number, seen, depth - 1))} for index in range(draw(st.integers(1, 2)))
    ]
    classify = {
        "model": "small",
        "prompt": f"Which is {{{{ {seen[-1]} }}}}?",
        "min_confidence": draw(st.sampled_from([0, 0.5])),
        "escalate": draw(st.sampled_from([None, "small"])),
        "retry": draw(RETRIES),
    }
    otherwise = draw(blocks(number, seen, depth - 1)) if draw(st.booleans()) else None
    return {"id": block_id, "route": ways, "classify": classify, "otherwise": otherwise}


@st.composite
def chains(draw: st.DrawFn, number: Iterator[int], seen: tuple[str, ...], depth: int, block_id: str) -> dict[str, Any]:
    """A chain whose blocks see those before them."""
    inside = []
    for _ in range(draw(st.integers(1, 4))):
        inside.append(draw(blocks(number, seen, depth - 1)))
        seen = (*seen, inside[-1]["id"])
    return {"id": block_id, "chain": inside, "output": draw(st.sampled_from([None, {"last": f"{{{{ {seen[-1]} }}}}"}]))}


@st.composite
def conditions(draw: st.DrawFn, seen: tuple[str, ...]) -> str:
    """What a case can hang on; one that is not defined fails its route."""
    name = draw(st.sampled_from(seen))
    return draw(st.sampled_from(["true", "false", f"{name} is mapping", f"{name}.kind == 'a'"]))


BUDGETS = [None, {"model_calls": 3}, {"tokens": 700}, {"cost": {"amount": "0.04"}}, {"tokens": 1_500, "model_calls": 5}]
PRICE = {"input_per_million": "10", "output_per_million": "50"}
PRICED = {
    "small": [{"pool": "small", "model": "first", "price": PRICE}, {"pool": "burst", "model": "x", "price": PRICE}]
}
RETRIES = st.fixed_dictionaries(
    {"attempts": st.integers(1, 4), "initial_ms": st.sampled_from([1, 1_000])},
    optional={"on": st.lists(st.sampled_from(RETRIED_MOVES), unique=True)},
)
JOINS = st.fixed_dictionaries(
    {
        "join": st.sampled_from(["all", "best_effort", {"quorum": 1}, {"quorum": 2}]),
        "max_concurrency": st.integers(1, 3),
    }
)
ELECTIONS = st.fixed_dictionaries(
    {
        "votes": st.integers(2, 4),
        "agree": st.sampled_from([None, 1, 2]),
        "by": st.sampled_from([None, None, "output is mapping", "output.kind"]),
        "max_concurrency": st.integers(1, 3),
    }
)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """A definition of nested blocks."""
    number = iter(range(1_000))
    body = draw(chains(number, ("input",), 3, "main"))
    return a_definition(
        body,
        tiers=PRICED,
        deadline_seconds=draw(st.sampled_from([30, 3_600])),
        steps_max=draw(st.sampled_from([6, 200])),
    )


@st.composite
def spenders(draw: st.DrawFn) -> dict[str, Any]:
    """Many model calls, side by side and one after the other."""
    call = {
        "model": "small",
        "prompt": "Say x",
        "max_tokens": draw(st.sampled_from([100, 256])),
        "retry": draw(RETRIES),
    }
    many = {"id": "many", "parallel": {"map": "range(4)", "do": {"id": "each", **call}, **draw(JOINS)}}
    few = {"id": "few", "parallel": {"sections": [{"id": "one", **call}, {"id": "two", **call}], **draw(JOINS)}}
    return {"id": "main", "chain": draw(st.permutations([many, few, {"id": "last", **call}]))}


class Checked(Conversation):
    """A conversation that holds every decision against what must always be so."""

    only_sound = False

    def __init__(self, definition: Definition, budget: dict[str, Any] | None) -> None:
        self.ends = 0
        self.neared: Counter[str] = Counter()
        self.completed: dict[str, Any] = {}
        self.limits = dict(_limits(definition.do, ""))
        agents = (block for block in every_block(definition.do) if isinstance(block, Agent))
        self.model_calls_max = {each.id: each.agent.caps.model_calls for each in agents if each.agent.caps is not None}
        super().__init__(definition, {"items": [1, 2], "kind": "a"}, budget=budget)

    def _heard(self, decision: Decision) -> Decision:
        self.last = super()._heard(decision)
        self._check_ends(decision)
        self._check_rows(decision)
        self._check_concurrency()
        self.neared.update(neared.cap for neared in decision.caps_neared if neared.block is None)
        self._check_budget()
        self._check_caps()
        return decision

    def _check_ends(self, decision: Decision) -> None:
        run = decision.run
        awaited = [step for step in run.steps.values() if step.phase in AWAITED]
        self.ends += decision.finished is not None
        # Guard: a run ends once, and again only after a redrive.
        assert self.ends == run.redrives + (run.status != "running")
        # Guard: a run goes on only while something is pending, and then it has an alarm for the first of it.
        assert bool(awaited) == (run.status == "running")
        dues = [step.due_at_ms for step in awaited if step.due_at_ms is not None]
        assert len(dues) == len(awaited)
        assert decision.alarm_at_ms == (min([*dues, run.deadline_at_ms]) if awaited else None)

    def _check_rows(self, decision: Decision) -> None:
        run = decision.run
        for path, step in run.steps.items():
            # Guard: what is awaited was asked for, under the id that is awaited.
            if step.phase is StepPhase.WAITING:
                assert self.requests[path, step.attempt].request_id == step.request_id
            # Guard: nothing is awaited beyond the step's own time.
            if step.phase in AWAITED and step.give_up_at_ms is not None:
                assert step.due_at_ms is not None
                assert step.due_at_ms <= step.give_up_at_ms
            # Guard: attempts are bounded.
            assert step.tries <= (4 if step.kind in ("model", "tool", "task") else 0)
            # Guard: a result is never lost nor replaced.
            if path in self.completed:
                assert (step.phase, step.output) == (StepPhase.COMPLETED, self.completed[path])
            elif step.phase is StepPhase.COMPLETED:
                self.completed[path] = step.output
        assert sum(step.attempt for step in run.steps.values()) <= self.definition.steps_max
        assert len({request.request_id for request in self.requests.values()}) == len(self.requests)
        # Guard: only what is still awaited is sent.
        for request in decision.requests:
            assert run.steps[request.step].phase is StepPhase.WAITING
        assert {change.step for change in decision.changes} <= {step.path for step in decision.steps}

    def _check_budget(self) -> None:
        """Guard: what is spent and reserved never exceeds the budget, and is what the rows say; nothing is negative."""
        run, live = self.run, self.run.live
        for step in run.steps.values():
            assert step.reserved is None or step.phase is StepPhase.WAITING
            if step.kind == "model" and run.budget is not None:
                assert (step.reserved is not None) == (step.phase is StepPhase.WAITING)
        if run.budget is None or live is None:
            return
        assert live.account is not None
        assert live.account == account_of(run, run.budget, ceiling=self.program.budget)
        for cap in CAPS:
            spent, reserved = getattr(live.account.spent, cap), getattr(live.account.reserved, cap)
            assert min(spent, reserved, getattr(live.account.unanswered, cap)) >= 0
            limit = limit_of(run.budget, cap)
            assert limit is None or spent + reserved <= limit
            # Guard: a cap is said to be near once, when it is.
            assert self.neared[cap] == (limit is not None and spent * 100 >= limit * 80)

    def _check_caps(self) -> None:
        """Guard: no block asks for more model calls than its caps allow."""
        calls = Counter[str]()
        for path, _ in self.requests:
            if path.endswith(("]/turn", "]/summary")):
                calls[path.rpartition("[")[0]] += 1
        for path, count in calls.items():
            cap = self.model_calls_max.get(path.rpartition("/")[2])
            assert cap is None or count <= cap

    def _check_concurrency(self) -> None:
        """Guard: no parallel block has more branches open than it may."""
        branches: set[tuple[str, str]] = set()
        for path, step in self.run.steps.items():
            if step.phase in AWAITED:
                parts = re.split(r"(?=[/\[])", path)
                branches |= {("".join(parts[:length]), "".join(parts[: length + 1])) for length in range(1, len(parts))}
        for block, count in Counter(block for block, _ in branches).items():
            limit = self.limits.get(re.sub(r"\[\d+\]", "", block)) if not block.endswith("]") else None
            assert limit is None or count <= limit, (block, count)


def _limits(block: Block, prefix: str) -> Iterator[tuple[str, int]]:
    """How many branches each parallel block may have open, by its path without items."""
    path = f"{prefix}/{block.id}" if prefix else block.id
    children: list[Block] = []
    match block:
        case Parallel(parallel=Sections() as inner):
            yield path, inner.max_concurrency
            children = inner.sections
        case Parallel(parallel=Map() as inner):
            yield path, inner.max_concurrency
            children = [inner.do]
        case Parallel(parallel=Vote() as inner):
            yield path, inner.vote.max_concurrency
            children = [inner.vote.do]
        case Chain():
            # One step at a time: what a chain has open is one branch.
            yield path, 1
            children = block.chain
        case RouteBlock():
            yield path, 1
            children = [case.do for case in block.route] + ([block.otherwise] if block.otherwise is not None else [])
        case Refine():
            # One round at a time, and in it the generator or the judge.
            yield path, 1
            children = children_of(block)
        case Agent():
            # One turn at a time, and in it the model, a summary or calls side by side.
            yield path, 1
            yield f"{path}/call", block.agent.parallel_calls_max
        case _:
            pass
    for child in children:
        yield from _limits(child, path)


def _awaits(talk: Conversation, request: Request) -> bool:
    step = talk.run.steps[request.step]
    return step.phase is StepPhase.WAITING and step.request_id == request.request_id and talk.run.status == "running"


def _outputs(path: str) -> list[Any]:
    """What may come back from the step at a path."""
    if path.endswith(("/classify", "/escalate")):
        return CHOICES
    return loop_outputs(path) or OUTPUTS


def _answer_any(talk: Conversation, data: st.DataObject) -> None:
    """An answer to any request ever made: perhaps one that was answered, or that nobody awaits any more."""
    request = talk.requests[data.draw(st.sampled_from(sorted(talk.requests)))]
    fields = tokens() if request.step and hasattr(request, "pool") else {}
    if data.draw(st.booleans()):
        message = succeeded(request, data.draw(st.sampled_from(_outputs(request.step))), **fields)
    else:
        message = failed(request, data.draw(st.sampled_from(MOVES)), **fields)
    awaited = _awaits(talk, request)
    before = said(Decision(talk.run))
    decision = talk.tell(Outcome(message, talk.now_ms))
    # Guard: a result that nobody awaits changes nothing; one that is awaited always does.
    assert decision.empty != awaited
    if not awaited:
        assert said(Decision(talk.run)) == before


# No shrinking: a failing example is a page long either way, and shrinking one takes minutes on a busy machine.
THOROUGH = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@THOROUGH
@given(definition=definitions(), budget=st.sampled_from(BUDGETS), data=st.data())
def test_whatever_is_said_to_a_run_it_stays_sound_and_ends(
    definition: Definition, budget: dict[str, Any] | None, data: st.DataObject
) -> None:
    talk = Checked(definition, budget)
    _tell_anything(talk, data)
    _drain(talk)
    assert talk.run.status != "running"


@THOROUGH
@given(do=spenders(), budget=st.sampled_from(BUDGETS[1:]), data=st.data())
def test_a_budget_is_never_overspent(do: dict[str, Any], budget: dict[str, Any], data: st.DataObject) -> None:
    """Guard: Checked holds each decision against the budget; here everything but the joins asks a model."""
    talk = Checked(a_definition(do, tiers=PRICED), budget)
    _tell_anything(talk, data)
    _drain(talk)


def _tell_anything(talk: Checked, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 40))):
        talk.now_ms += data.draw(st.sampled_from([0, 0, 1, 400]))
        match data.draw(st.sampled_from(["answer"] * 12 + ["alarm", "early", "late", "cancel", "redrive", "restart"])):
            case "answer" if talk.requests:
                _answer_any(talk, data)
            case "alarm" if talk.last.alarm_at_ms is not None:
                talk.ring()
            case "early":
                talk.tell(AlarmDue(talk.now_ms))
            case "late":
                talk.now_ms += 20_000
                talk.tell(AlarmDue(talk.now_ms))
            case "cancel" if data.draw(st.integers(0, 5)) == 0:
                talk.tell(Cancelled("", talk.now_ms))
            case "redrive":
                talk.tell(Redriven(talk.now_ms))
            case _:
                talk.run.live = None


def _drain(talk: Conversation) -> None:
    """Everything that is awaited answers, everything that is due comes due."""
    for _ in range(2_000):
        if talk.run.status != "running":
            return
        waiting = [step for step in talk.run.steps.values() if step.phase is StepPhase.WAITING]
        if waiting:
            talk.succeed(waiting[0].path, _outputs(waiting[0].path)[-1], attempt=waiting[0].attempt)
        else:
            talk.ring()

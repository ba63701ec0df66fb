"""Owns the properties of the state machine: random definitions, told random, repeated, reordered and late events."""

from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from penstock.contracts.messages import Failure, NextMove, RunFinished, StepPhase
from penstock.testkit.builders import a_definition, failed, succeeded, tokens
from penstock.workflow.definition import Definition
from penstock.workflow.parts import RETRIED_MOVES
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.decide import AlarmDue, Cancelled, ChildEnded, Event, Outcome, Redriven
from services.orchestrator.core.state import Decision, Request
from services.orchestrator.core.tests.checked import GIVEN, Checked
from services.orchestrator.core.tests.conversation import ENDED, Conversation, said
from services.orchestrator.core.tests.drawn_loops import loop_outputs, loops

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
EVENTS = ["answer"] * 12 + ["child"] * 3 + ["alarm", "early", "late", "cancel", "redrive", "restart", "wrong"]
NAPS = [0, 3, 25, 4_000, "{{ input.kind }}", {"until": "2026-01-01T00:00:07Z"}, {"until": "2025-12-31T00:00:00Z"}]
NESTED = ("chain", "route", "sections", "map", "classify", "vote", "refine", "agent", "plan")


@st.composite
def calls(draw: st.DrawFn, kind: str, source: str) -> dict[str, Any]:
    """What one step asks for."""
    match kind:
        case "task":
            return {"task": "tasks.work", "input": draw(st.sampled_from([{}, source]))}
        case "tool":
            return {"tool": "files.read", "arguments": {"path": source}}
        case "run":
            return {"run": "other", "input": source, "wait": draw(st.sampled_from([True, True, False]))}
        case "embed":
            return {"embed": "small", "input": draw(st.sampled_from([source, [f"Of {source}", "water"]]))}
        case _:
            schema = draw(st.sampled_from([None, {"type": "object", "required": ["kind"]}]))
            return {"model": "small", "prompt": f"Say {source}", "output_schema": schema}


@st.composite
def blocks(draw: st.DrawFn, number: Iterator[int], seen: tuple[str, ...], depth: int) -> dict[str, Any]:
    """A block whose templates use the ids in `seen`, well or badly."""
    block_id = f"b{next(number)}"
    kinds = ["task", "task", "model", "embed", "tool", "run", "check", "sleep"] + ([*NESTED, *NESTED] if depth else [])
    source = draw(st.sampled_from([f"{{{{ {name} }}}}" for name in seen] + [f"{{{{ {name}.kind }}}}" for name in seen]))
    whole_seconds = draw(st.sampled_from([None, None, 8]))
    leaf = {"id": block_id, "timeout_seconds": draw(st.sampled_from([5, 60])), "retry": draw(RETRIES)}
    leaf |= {"undo": draw(UNDOS)} if draw(st.booleans()) else {}
    leaf |= {} if whole_seconds is None else {"step_timeout_seconds": whole_seconds}
    match draw(st.sampled_from(kinds)):
        case "task" | "tool" | "run" | "model" | "embed" as kind:
            return {**leaf, **draw(calls(kind, source))}
        case "check" | "sleep" as kind:
            return {"id": block_id, kind: draw(conditions(seen) if kind == "check" else st.sampled_from(NAPS))}
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
        case "refine" | "agent" | "plan" as kind:
            return draw(loops(kind, block_id, source, lambda *names: blocks(number, (*seen, *names), depth - 1)))
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
    "small": {
        "routes": [
            {"pool": "small", "model": "first", "price": PRICE, "in_flight_max": 2},
            {"pool": "burst", "model": "x", "price": PRICE},
        ],
        "breaker": {"calls_min": 2, "open_seconds": 5},
    }
}
RETRIES = st.fixed_dictionaries(
    {"attempts": st.integers(1, 4), "initial_ms": st.sampled_from([1, 1_000])},
    optional={"on": st.lists(st.sampled_from(RETRIED_MOVES), unique=True)},
)
UNDOS = st.fixed_dictionaries(
    {
        "task": st.just("tasks.undo"),
        "input": st.sampled_from([{}, "{{ output }}", "{{ output.kind }} {{ input.kind }}"]),
        "timeout_seconds": st.sampled_from([5, 60]),
        "retry": RETRIES,
    }
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
        undo_seconds=draw(st.sampled_from([20, 3_600])),
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


def _end_any_child(talk: Checked, data: st.DataObject) -> None:
    """The end of any child ever asked for."""
    path, attempt = data.draw(st.sampled_from(sorted(talk.children)))
    child = talk.children[path, attempt]
    heeded, costs = _heeds(talk, child), _costs(talk, child)
    before = without_money(Decision(talk.run))
    if data.draw(st.booleans()):
        decision = talk.child_ended(path, data.draw(st.sampled_from(OUTPUTS)), attempt)
    else:
        code = data.draw(st.sampled_from(["broken", "unknown_workflow"]))
        failure = Failure(code=code, message="it broke")
        decision = talk.child_ended(path, None, attempt, status="failed", error=failure)
    # Guard: an end that nobody awaits changes nothing but what was spent; one that is awaited always does.
    assert decision.empty != (heeded or costs)
    if not heeded:
        assert without_money(Decision(talk.run)) == before


def _awaits(talk: Conversation, request: Request | ChildRequested) -> bool:
    step = talk.run.steps[request.step]
    return step.phase is StepPhase.WAITING and step.request_id == request.request_id and talk.run.status == "running"


def _heeds(talk: Conversation, request: Request | ChildRequested) -> bool:
    """Whether an answer is awaited, or tells whether a cancelled step has to be undone."""
    step = talk.run.steps[request.step]
    unsettled = step.undo is not None and step.undo.scope is not None and step.request_id == request.request_id
    unsettled = unsettled and step.phase is StepPhase.CANCELLED
    return _awaits(talk, request) or (unsettled and talk.run.status == "running")


def _costs(talk: Checked, request: Request | ChildRequested) -> bool:
    """Whether the answer to a request is one that has to be paid for, and was not counted yet."""
    paid = talk.run.steps[request.step].kind in ("model", "run") and request.request_id in talk.paid(request.step)
    return paid and request.request_id not in talk.ledger.counted


def without_money(decision: Decision) -> dict[str, Any]:
    """All that a decision says, but what was spent."""
    told = said(decision)
    told["run"]["usage"] = told["steps"] = None
    for step in told["run"]["steps"].values():
        for name in ("model_calls", "input_tokens", "output_tokens", "cost", "unanswered"):
            step[name] = None
    return told


def _outputs(path: str) -> list[Any]:
    """What may come back from the step at a path."""
    if path.endswith(("/classify", "/escalate")):
        return CHOICES
    return loop_outputs(path) or OUTPUTS


def _answer_any(talk: Checked, data: st.DataObject) -> None:
    """An answer to any request ever made: perhaps one that was answered, or that nobody awaits any more."""
    request = talk.requests[data.draw(st.sampled_from(sorted(talk.requests)))]
    fields = tokens() if request.step and hasattr(request, "pool") else {}
    if data.draw(st.booleans()):
        message = succeeded(request, data.draw(st.sampled_from(_outputs(request.step))), **fields)
    else:
        message = failed(request, data.draw(st.sampled_from(MOVES)), **fields)
    heeded, costs = _heeds(talk, request), _costs(talk, request)
    before = without_money(Decision(talk.run))
    alarm_at_ms = talk.last.alarm_at_ms
    decision = talk.tell(Outcome(message, talk.now_ms))
    # Guard: a result that nobody awaits changes nothing but what was spent, once; one that is awaited always does.
    assert decision.empty != (heeded or costs)
    if not heeded:
        assert without_money(Decision(talk.run)) == before
        assert without_money(decision) == {**before, "alarm_at_ms": alarm_at_ms}


def _answer_wrongly(talk: Conversation, data: st.DataObject) -> None:
    """The answer to one request given as another step's, or as the end of a child."""
    request = talk.requests[data.draw(st.sampled_from(sorted(talk.requests)))]
    other = data.draw(st.sampled_from([path for path in talk.run.steps if path != request.step] or ["nowhere"]))
    if data.draw(st.booleans()):
        event: Event = Outcome(succeeded(request, 1, step=other), talk.now_ms)
    else:
        end = RunFinished.model_validate(ENDED | {"run_id": "child-1", "output": 1})
        event = ChildEnded(ChildCompleted(request.step, request.request_id, end), talk.now_ms)
    # Guard: an answer counts for the step that asked, and in the kind that it asked for.
    assert talk.tell(event).empty


def _ring_now(talk: Conversation) -> None:
    """An alarm at any time, twice."""
    for _ in range(2):
        due_ms = talk.last.alarm_at_ms
        decision = talk.tell(AlarmDue(talk.now_ms))
        # Guard: an alarm before its time changes nothing.
        assert decision.empty or (due_ms is not None and due_ms <= talk.now_ms)


# No shrinking: a failing example is a page long either way, and shrinking one takes minutes on a busy machine.
THOROUGH = settings(
    max_examples=settings().max_examples * 3 // 5,
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
    tell_anything(talk, data)
    _drain(talk)
    assert talk.run.status != "running"


@THOROUGH
@given(do=spenders(), budget=st.sampled_from(BUDGETS[1:]), data=st.data())
def test_a_budget_is_never_overspent(do: dict[str, Any], budget: dict[str, Any], data: st.DataObject) -> None:
    """Guard: Checked holds each decision against the budget; here everything but the joins asks a model."""
    talk = Checked(a_definition(do, tiers=PRICED), budget)
    tell_anything(talk, data)
    _drain(talk)


class Again(Conversation):
    """A second run of a drawn definition."""

    only_sound = False


@THOROUGH
@given(definition=definitions(), budget=st.sampled_from(BUDGETS), data=st.data())
def test_the_same_events_lead_to_the_same_bytes(
    definition: Definition, budget: dict[str, Any] | None, data: st.DataObject
) -> None:
    """Guard: the first time with restarts in between, the second without: nothing but the events is in a decision."""
    talk = Checked(definition, budget)
    tell_anything(talk, data)
    again = Again(definition, GIVEN, budget=budget, routes=Breakers())

    for event in talk.heard:
        again.tell(event)

    assert again.spoken == talk.spoken


def tell_anything(talk: Checked, data: st.DataObject, events_max: int = 40) -> None:
    """Random events, not all of which the run has anything to do with."""
    for _ in range(data.draw(st.integers(0, events_max))):
        talk.now_ms += data.draw(st.sampled_from([0, 0, 1, 400]))
        match data.draw(st.sampled_from(EVENTS)):
            case "answer" if talk.requests:
                _answer_any(talk, data)
            case "child" if talk.children:
                _end_any_child(talk, data)
            case "alarm" if talk.last.alarm_at_ms is not None:
                talk.ring()
            case "early":
                _ring_now(talk)
            case "wrong" if talk.requests:
                _answer_wrongly(talk, data)
            case "late":
                talk.now_ms += 20_000
                talk.tell(AlarmDue(talk.now_ms))
            case "cancel" if data.draw(st.integers(0, 5)) == 0:
                talk.tell(Cancelled("", talk.now_ms))
            case "redrive":
                talk.tell(Redriven(talk.now_ms))
            case _:
                talk.run.live = None


def _drain(talk: Checked) -> None:
    """Everything that is awaited answers, everything that is due comes due."""
    for _ in range(2_000):
        if talk.run.status != "running":
            return
        waiting = [step for step in talk.run.steps.values() if step.request_id and step.phase is StepPhase.WAITING]
        if waiting and waiting[0].kind == "run":
            talk.child_ended(waiting[0].path, OUTPUTS[-1], waiting[0].attempt)
        elif waiting:
            talk.succeed(waiting[0].path, _outputs(waiting[0].path)[-1], attempt=waiting[0].attempt)
        else:
            talk.ring()

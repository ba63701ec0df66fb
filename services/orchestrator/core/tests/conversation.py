"""Owns how the core is tested: a run told events, every decision made twice, once by a run restored from its rows."""

import copy
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID, uuid5

import orjson

from penstock.contracts import ids
from penstock.contracts.messages import (
    InferenceRequested,
    NextMove,
    RunFinished,
    RunRequested,
    StepChange,
    TaskRequested,
)
from penstock.testkit.builders import BEGINNING, BEGINNING_MS, Completed, a_definition, a_run, failed, succeeded
from penstock.workflow.checks import check
from penstock.workflow.definition import Definition
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.decide import AlarmDue, Cancelled, ChildEnded, Event, Outcome, Redriven, decide
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.program import compile_definition
from services.orchestrator.core.starting import start
from services.orchestrator.core.state import Decision, Request, Run, Undo
from services.orchestrator.core.tests.transitions import check_transitions, phases

KEY = ids.run_key("default", "run-1")
ENDED: dict[str, Any] = {
    "workflow": "other",
    "version": "1",
    "tenant": "default",
    "status": "completed",
    "started_at": BEGINNING,
    "finished_at": BEGINNING,
}
"""How a child run ends, but for its run id and output."""


def stored(run: Run) -> Run:
    """The run as it comes back from its rows: nothing derived, every value through JSON."""
    again = copy.deepcopy(replace(run, live=None, steps={}))
    again.input = orjson.loads(orjson.dumps(run.input))
    again.output = orjson.loads(orjson.dumps(run.output))
    for path, step in sorted(run.steps.items(), reverse=True):  # the order in which rows come must not matter
        undo = None if step.undo is None else Undo(**orjson.loads(orjson.dumps(asdict(step.undo))))
        again.steps[path] = replace(step, output=orjson.loads(orjson.dumps(step.output)), undo=undo)
    return again


def said(decision: Decision) -> dict[str, Any]:
    """All of a decision in plain values, to be compared."""
    run = replace(decision.run, live=None)
    return {
        "run": {**asdict(run), "steps": dict(sorted(asdict(run)["steps"].items()))},
        "run_changed": decision.run_changed,
        "steps": [asdict(step) for step in decision.steps],
        "requests": [request.to_json() for request in decision.requests],
        "children": [(child.request_id, child.step, child.to_json()) for child in decision.children],
        "abandoned": [(child.request_id, child.message.to_json()) for child in decision.abandoned],
        "cancellations": [each.to_json() for each in decision.cancellations],
        "alarm_at_ms": decision.alarm_at_ms,
        "charges": (decision.charges, decision.burst_charges),
        "route_events": decision.route_events,
        "changes": decision.changes,
        "start": None if decision.start is None else decision.start.to_json(),
        "finished": None if decision.finished is None else decision.finished.to_json(),
    }


def only_money(decision: Decision) -> bool:
    """Whether a decision says nothing, or nothing but what was spent."""
    asked = (*decision.requests, *decision.children, *decision.abandoned, *decision.cancellations)
    told = (*decision.changes, *decision.route_events)
    return not (decision.run_changed or asked or told or decision.start or decision.finished)


class Conversation:
    """One run that is told events; `requests` are all that it ever asked for, by path and attempt."""

    only_sound = True
    """Whether the definition must pass the checks of publishing."""

    def __init__(
        self,
        do: dict[str, Any] | Definition,
        given: Any = None,
        *,
        routes: Breakers | None = None,
        facts: Facts | None = None,
        **fields: Any,
    ) -> None:
        self.facts = facts if facts is not None else Facts(routes=routes)
        own = ("deadline_seconds", "steps_max", "tiers", "undo_seconds")
        workflow = {name: fields.pop(name) for name in own if name in fields}
        self.definition = do if isinstance(do, Definition) else a_definition(do, **workflow)
        assert not self.only_sound or check(self.definition) == []
        self.program = compile_definition(self.definition, "1")
        self.now_ms = BEGINNING_MS
        self.requests: dict[tuple[str, int], Request] = {}
        self.children: dict[tuple[str, int], ChildRequested] = {}
        self.given_up: list[str] = []
        """The run ids of the children that were cancelled."""
        self.cancelled: list[UUID] = []
        """The ids of the requests whose executors were told to stop."""
        self.heard: list[Event] = []
        self.spoken: list[dict[str, Any]] = []
        """What each event that was heard led to, as it was said then."""
        self.last = self._heard(
            start(
                a_run(input={} if given is None else given, **fields),
                key=KEY,
                tenant="default",
                run_id="run-1",
                home=3,
                program=self.program,
                at_ms=self.now_ms,
                traceparent=None,
                facts=self.facts,
            )
        )

    @property
    def run(self) -> Run:
        """The run, as it is now."""
        return self.last.run

    def asked(self) -> list[str]:
        """What the last decision asked for: `path#attempt`."""
        return [f"{asked.step}#{asked.attempt}" for asked in (*self.last.requests, *self.last.children)]

    def inputs(self) -> list[Any]:
        """The inputs of the tasks that the last decision asked for."""
        return [request.input for request in self.last.requests if isinstance(request, TaskRequested)]

    def child_ended(self, path: str, output: Any = None, attempt: int = 1, **fields: Any) -> Decision:
        """A child run ended; `status`, `error` and `usage` where it did not go well or cost something."""
        asked = self.children[path, attempt]
        message = asked.message
        end = ENDED | {"run_id": message.run_id, "workflow": message.workflow, "tenant": message.tenant}
        finished = RunFinished.model_validate(end | {"output": output} | fields)
        return self.tell(ChildEnded(ChildCompleted(path, asked.request_id, finished), self.now_ms))

    def model_call(self) -> InferenceRequested:
        """The one model call that the last decision asked for."""
        (request,) = self.last.requests
        assert isinstance(request, InferenceRequested)
        return request

    def tell(self, event: Event) -> Decision:
        """An event; a run restored from its rows must decide the same."""
        self.heard.append(event)
        before, were = stored(self.run), phases(self.run)
        decision = decide(self.run, self.program, event, self.facts)
        # Guard: frames after a restart are the frames before it (decision 0001).
        self.spoken.append(said(decision))
        assert said(decide(before, self.program, event, self.facts)) == self.spoken[-1]
        check_transitions(were, event, self.run)
        self.last = self._heard(decision)
        return decision

    def answer(self, message: Completed) -> Decision:
        """An executor's answer."""
        return self.tell(Outcome(message, self.now_ms))

    def succeed(self, path: str, output: Any = None, attempt: int = 1, **fields: Any) -> Decision:
        """An attempt went well."""
        return self.answer(succeeded(self.requests[path, attempt], output, **fields))

    def fail(self, path: str, next_move: NextMove = NextMove.GIVE_UP, attempt: int = 1, **fields: Any) -> Decision:
        """An attempt failed."""
        return self.answer(failed(self.requests[path, attempt], next_move, **fields))

    def ring(self, at_ms: int | None = None) -> Decision:
        """The alarm that the last decision set, when it is due (or at another time)."""
        due_ms = self.last.alarm_at_ms if at_ms is None else at_ms
        assert due_ms is not None
        self.now_ms = max(self.now_ms, due_ms)
        return self.tell(AlarmDue(self.now_ms))

    def cancel(self, reason: str = "") -> Decision:
        """Somebody cancels the run."""
        return self.tell(Cancelled(reason, self.now_ms))

    def redrive(self) -> Decision:
        """Somebody redrives the run."""
        return self.tell(Redriven(self.now_ms))

    def _heard(self, decision: Decision) -> Decision:
        if self.facts.routes is not None:
            self.facts.routes.count(decision.route_events)
            self.facts.routes.learn(decision.route_events)
        for request in decision.requests:
            # Guard: an attempt is asked for once, ever.
            assert (request.step, request.attempt) not in self.requests
            self.requests[request.step, request.attempt] = request
            assert request.request_id == uuid5(KEY, f"{request.step}#{request.attempt}")
        for child in decision.children:
            assert (child.step, child.attempt) not in self.children
            self.children[child.step, child.attempt] = child
            assert child.message.run_id == f"child-{uuid5(KEY, f'{child.step}#{child.attempt}')}"
            assert RunRequested.model_validate_json(child.to_json()) == child.message
        self.given_up += [child.message.run_id for child in decision.abandoned]
        self.cancelled += [each.request_id for each in decision.cancellations]
        # Guard: messages made without validation are what validation would have made.
        for change in decision.changes:
            StepChange.model_validate(change, strict=True)
            assert None not in change.values()
        whole = [each for each in (decision.start, decision.finished) if each is not None]
        for message in (*decision.requests, *decision.cancellations, *whole):
            fields = {name: getattr(message, name) for name in type(message).model_fields}
            checked = type(message).model_validate(fields, strict=True)
            assert checked == message
            assert orjson.loads(checked.to_json()) == orjson.loads(message.to_json())
            assert message.__dict__.keys() == fields.keys()
        return decision

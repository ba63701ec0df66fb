"""Owns one rehearsal: a run told everything that its script says, when it says it, on a clock that nobody waits for."""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from penstock.contracts import ids
from penstock.contracts.messages import RunFinished, RunRequested
from penstock.workflow.definition import Definition
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.decide import AlarmDue, Cancelled, ChildEnded, Event, Outcome, Redriven, decide
from services.orchestrator.core.facts import NO_FACTS, Facts
from services.orchestrator.core.program import Program, compile_definition
from services.orchestrator.core.starting import start
from services.orchestrator.core.state import Decision, Request, Run
from services.rehearsal import history
from services.rehearsal.answering import Answering, UnansweredError
from services.rehearsal.circumstances import Circumstances, facts_of
from services.rehearsal.script import Answers, Case

EVENTS_MAX: Final = 100_000
"""More than that happens in no test that somebody reads."""
UNVERSIONED: Final = "rehearsed"
"""The version of a definition that gives none: a digest would change a recorded history with every new field."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and when it was made."""

    at_ms: int
    request: Request | ChildRequested


@dataclass(slots=True)
class Happened:
    """All that one case came to. `entries` has one for each event; times are milliseconds since 1970."""

    run: Run
    began_ms: int
    circumstances: Circumstances | None = None
    asked: list[Asked] = field(default_factory=list)
    entries: list[history.Entry] = field(default_factory=list)
    finished: RunFinished | None = None
    """How it ended, as the world is told."""
    unused: list[str] = field(default_factory=list)
    """Patterns of the case's own answers that no step asked under: the run went another way, or they are misspelt."""
    stopped: UnansweredError | None = None
    """Why the rehearsal went no further; None: the run came to its end."""

    @property
    def duration_ms(self) -> int | None:
        """How long the run took, in virtual time; None: it did not end."""
        return None if self.run.finished_at_ms is None else self.run.finished_at_ms - self.began_ms


def rehearse(
    definition: Definition,
    case: Case,
    shared: Mapping[str, Answers],
    children: Mapping[str, Definition] = MappingProxyType({}),
) -> Happened:
    """Runs a case to its end. Never raises for what the workflow does: that is what a test looks at.

    `children` are the workflows that run steps start, by what the steps call them; their runs are played too.
    """
    stage = _Stage(case, shared, children)
    began_ms = round(case.started_at.timestamp() * 1000)
    rehearsal = _Rehearsal(definition, stage, began_ms)
    for signal in case.signals:
        at_ms = began_ms + signal.at
        rehearsal.come(Redriven(at_ms) if signal.redrive else Cancelled(signal.cancel or "", at_ms))
    return rehearsal.played(_request(case, rehearsal.program))


def begin(request: RunRequested, program: Program, began_ms: int, facts: Facts = NO_FACTS) -> Decision:
    """The run that a rehearsal and a replayed history begin with."""
    tenant, run_id = request.tenant or ids.DEFAULT_TENANT, request.run_id or "rehearsal"
    return start(
        request,
        key=ids.run_key(tenant, run_id),
        tenant=tenant,
        run_id=run_id,
        home=0,
        program=program,
        at_ms=began_ms,
        traceparent=None,
        facts=facts,
    )


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a run and its children are played on."""

    case: Case
    shared: Mapping[str, Answers]
    children: Mapping[str, Definition]


class _Rehearsal:
    def __init__(self, definition: Definition, stage: _Stage, began_ms: int) -> None:
        self.program = compile_definition(definition, definition.version or UNVERSIONED)
        self._stage = stage
        self._answering = Answering(stage.case.answers, stage.shared, definition)
        self._began_ms = began_ms
        self._used_by_children: set[str] = set()
        self._order = itertools.count()
        self._coming: list[tuple[int, int, Event]] = []

    def played(self, request: RunRequested) -> Happened:
        facts = facts_of(self._stage.case.circumstances, request.tenant or ids.DEFAULT_TENANT)
        decision = begin(request, self.program, self._began_ms, facts)
        happened = Happened(decision.run, self._began_ms, self._stage.case.circumstances)
        try:
            self._take(happened, self._began_ms, history.of_request(request), decision)
            while (event := self._next(decision)) is not None:
                decision = decide(happened.run, self.program, event, facts)
                self._take(happened, event.at_ms, history.of_event(event), decision)
        except UnansweredError as error:
            happened.stopped = error
        happened.unused = [each for each in self._answering.unused() if each not in self._used_by_children]
        return happened

    def _take(self, happened: Happened, at_ms: int, event: dict[str, Any], decision: Decision) -> None:
        if len(happened.entries) == EVENTS_MAX:
            raise UnansweredError(f"{EVENTS_MAX} events and no end", "")
        happened.finished = decision.finished or happened.finished
        happened.entries.append(history.entry(at_ms, event, decision, self._began_ms))
        happened.asked.extend(Asked(at_ms, request) for request in (*decision.requests, *decision.children))
        for request in decision.requests:
            answer = self._answering.to(request, at_ms, self._began_ms)
            if answer is not None:
                self.come(Outcome(answer[1], answer[0]))
        for child in decision.children:
            definition = self._stage.children.get(child.message.workflow)
            if definition is not None and not self._answering.knows(child.step):
                self._play(child, definition, at_ms)
            elif (end := self._answering.to_child(child, at_ms, self._began_ms)) is not None:
                self.come(ChildEnded(end[1], end[0]))

    def _play(self, child: ChildRequested, definition: Definition, at_ms: int) -> None:
        """A child run, from its request to its end; that the parent gives it up meanwhile does not reach it."""
        happened = _Rehearsal(definition, self._stage, at_ms).played(child.message)
        self._used_by_children |= {*self._stage.case.answers} - {*happened.unused}
        if happened.stopped is not None:
            message = f"in the run of `{child.message.workflow}` that {child.step} asked for: {happened.stopped}"
            raise UnansweredError(message, happened.stopped.advice)
        ended, parent = happened.finished, child.message.parent
        if ended is not None and parent is not None and parent.awaited:
            end_ms = round(ended.finished_at.timestamp() * 1000)
            self.come(ChildEnded(ChildCompleted(child.step, child.request_id, ended), end_ms))

    def come(self, event: Event) -> None:
        heapq.heappush(self._coming, (event.at_ms, next(self._order), event))

    def _next(self, decision: Decision) -> Event | None:
        """What happens next: an answer or a signal, else the alarm; nothing, where the run is over for good."""
        if decision.run.status != "running":
            self._coming = [each for each in self._coming if not isinstance(each[2], Outcome | ChildEnded)]
            heapq.heapify(self._coming)
        alarm_ms = decision.alarm_at_ms
        if self._coming and (alarm_ms is None or self._coming[0][0] <= alarm_ms):
            return heapq.heappop(self._coming)[2]
        return None if alarm_ms is None else AlarmDue(alarm_ms)


def _request(case: Case, program: Program) -> RunRequested:
    return RunRequested(
        workflow=f"{program.name}@{program.version}",
        input=case.input,
        run_id=case.run_id,
        tenant=case.tenant,
        labels=case.labels,
        priority=case.priority,
        deadline=None if case.deadline is None else case.started_at + timedelta(milliseconds=case.deadline),
        budget=case.budget,
    )

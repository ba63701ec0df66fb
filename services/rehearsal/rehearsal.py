"""Owns one rehearsal: a run told everything that its script says, when it says it, on a clock that nobody waits for."""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from penstock.contracts import ids
from penstock.contracts.messages import RunRequested
from penstock.workflow.definition import Definition
from services.orchestrator.core.children import ChildRequested
from services.orchestrator.core.decide import AlarmDue, Cancelled, ChildEnded, Event, Outcome, Redriven, decide
from services.orchestrator.core.program import Program, compile_definition
from services.orchestrator.core.starting import start
from services.orchestrator.core.state import Decision, Request, Run
from services.rehearsal import history
from services.rehearsal.answering import Answering, UnansweredError
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
    asked: list[Asked] = field(default_factory=list)
    entries: list[history.Entry] = field(default_factory=list)
    stopped: UnansweredError | None = None
    """Why the rehearsal went no further; None: the run came to its end."""

    @property
    def duration_ms(self) -> int | None:
        """How long the run took, in virtual time; None: it did not end."""
        return None if self.run.finished_at_ms is None else self.run.finished_at_ms - self.began_ms


def rehearse(definition: Definition, case: Case, shared: Mapping[str, Answers]) -> Happened:
    """Runs a case to its end. Never raises for what the workflow does: that is what a test looks at."""
    return _Rehearsal(definition, case, shared).played()


def begin(request: RunRequested, program: Program, began_ms: int) -> Decision:
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
    )


class _Rehearsal:
    def __init__(self, definition: Definition, case: Case, shared: Mapping[str, Answers]) -> None:
        self._program = compile_definition(definition, definition.version or UNVERSIONED)
        self._case = case
        self._answering = Answering(case.answers, shared, definition)
        self._began_ms = round(case.started_at.timestamp() * 1000)
        self._order = itertools.count()
        self._coming: list[tuple[int, int, Event]] = []
        for signal in case.signals:
            at_ms = self._began_ms + signal.at
            self._come(Redriven(at_ms) if signal.redrive else Cancelled(signal.cancel or "", at_ms))

    def played(self) -> Happened:
        request = _request(self._case, self._program)
        decision = begin(request, self._program, self._began_ms)
        happened = Happened(decision.run, self._began_ms)
        try:
            self._take(happened, self._began_ms, history.of_request(request), decision)
            while (event := self._next(decision)) is not None:
                decision = decide(happened.run, self._program, event)
                self._take(happened, event.at_ms, history.of_event(event), decision)
        except UnansweredError as error:
            happened.stopped = error
        return happened

    def _take(self, happened: Happened, at_ms: int, event: dict[str, Any], decision: Decision) -> None:
        if len(happened.entries) == EVENTS_MAX:
            raise UnansweredError(f"{EVENTS_MAX} events and no end", "")
        happened.entries.append(history.entry(at_ms, event, decision, self._began_ms))
        happened.asked.extend(Asked(at_ms, request) for request in (*decision.requests, *decision.children))
        for request in decision.requests:
            answer = self._answering.to(request, at_ms, self._began_ms)
            if answer is not None:
                self._come(Outcome(answer[1], answer[0]))
        for child in decision.children:
            end = self._answering.to_child(child, at_ms, self._began_ms)
            if end is not None:
                self._come(ChildEnded(end[1], end[0]))

    def _come(self, event: Event) -> None:
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

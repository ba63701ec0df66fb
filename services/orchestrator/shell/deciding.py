"""Owns one batch of decisions: inputs are applied to runs in memory, and add up to one write and one send."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from penstock.contracts.envelope import Outgoing, rfc3339
from penstock.contracts.messages import (
    Failure,
    RunFinished,
    RunRequested,
    SignalKind,
)
from penstock.runtime.kafka.records import dead_letter
from penstock.workflow.whole import ContentNeededError
from services.orchestrator.core import decide as core
from services.orchestrator.core import starting
from services.orchestrator.core.breakers import Breakers, RouteEvent, Undo
from services.orchestrator.core.bursting import OWNER
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.contents import Contents
from services.orchestrator.core.facts import Facts
from services.orchestrator.core.program import Program
from services.orchestrator.core.state import Decision, Run, Step
from services.orchestrator.shell import records
from services.orchestrator.shell.alarms import Alarms
from services.orchestrator.shell.definitions import Definitions
from services.orchestrator.shell.inbox import Answered, Input, Rejected, Requested, Signalled, Unreadable
from services.orchestrator.shell.outbox import pack
from services.orchestrator.shell.putting_away import PutAway
from services.orchestrator.shell.run_cache import RunCache
from services.orchestrator.shell.store import Alarm, Batch, Charge
from services.orchestrator.shell.telemetry import OrchestratorEvent
from services.orchestrator.shell.tenants import TenantBudgets, added_up

log = structlog.get_logger()


UNNAMED = "unnamed"
"""The workflow of a request that cannot be read and names none."""

CHANGES_PER_RECORD_MAX = 100
"""In one progress record: with the largest previews it stays far below what a broker takes."""

Cause = Input | Alarm


class UndecidableError(Exception):
    """The core could not decide on `cause`: a bug, or rows that contradict each other. Its batch must be undone."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"cannot decide on {type(cause).__name__}")
        self.cause = cause


@dataclass(slots=True)
class Touched:
    """What this batch decided on one run so far."""

    run: Run
    new: bool = False
    alarm_at_ms: int | None = None
    told: list[tuple[Decision, str]] = field(default_factory=list)
    """The decisions that the read side must hear of, each with its cause."""

    def whole(self) -> Decision:
        """What all decisions together say of the run and its rows, and what is told of them."""
        if len(self.told) == 1:
            return self.told[0][0]
        whole, steps = Decision(self.run), dict[str, Step]()
        for decision, _ in self.told:
            whole.run_changed = whole.run_changed or decision.run_changed
            whole.changes += decision.changes
            whole.caps_neared += decision.caps_neared
            whole.start = whole.start or decision.start
            whole.finished = decision.finished or whole.finished
            steps |= {step.path: step for step in decision.steps}
        whole.steps = list(steps.values())
        return whole


@dataclass(slots=True)
class RouteNews:
    """What this batch decided about routes: counted already, to be learnt once it is written."""

    events: list[RouteEvent] = field(default_factory=list)
    undo: list[Undo] = field(default_factory=list)


class Deciding:
    """Applies inputs in order; `seal` makes the batch. Runs are changed in place: see RunCache.evict."""

    def __init__(
        self,
        runs: RunCache,
        definitions: Definitions,
        alarms: Alarms,
        tenants: frozenset[str],
        group_id: str,
        at_ms: int,
        routes: Breakers,
        budgets: TenantBudgets,
        contents: Contents,
    ) -> None:
        self.away = PutAway(stores=contents.stores)
        self._runs = runs
        self._definitions = definitions
        self._alarms = alarms
        self._tenants = tenants
        self._group_id = group_id
        self._facts = Facts(routes=routes, contents=contents)
        """Of tenants without a budget."""
        self._routes = routes
        self._budgets = budgets
        self._budgeted = budgets.there
        self.charges: list[Charge] = []
        """What this batch took of tenants' days; counted already."""
        self.route_news = RouteNews()
        self._at_ms = at_ms
        self._at = records.instant(at_ms)
        self._time = rfc3339(at_ms).encode()
        self._touched: dict[int, Touched] = {}
        self._aside: dict[int, list[Outgoing]] = {}
        self._orphaned: list[UUID] = []
        self._begun: list[UUID] = []
        self.calls: list[tuple[Run, int]] = []
        """The runs that asked for something or ended, and how many requests this batch sends for each; when sealed."""
        self.needed: list[ContentNeededError] = []
        """What must be read before this can be decided on. Where there is any, all of this batch is to be undone."""

    @property
    def touched_keys(self) -> Iterable[UUID]:
        """The runs that now hold changes which are not written yet."""
        return [*(touched.run.key for touched in self._touched.values()), *self._begun]

    def apply(self, given: Input) -> None:
        """Decide on one input. Its run, where there is one, must be in the cache by now. Raises UndecidableError."""
        try:
            self._apply(given)
        except ContentNeededError as error:
            self.needed.append(error)
        except Exception as error:
            if not self.needed:  # else it may be due to what is missing
                raise UndecidableError(given) from error

    def ring(self, alarm: Alarm) -> None:
        """Something in a run is due. Raises UndecidableError."""
        try:
            self._ring(alarm)
        except ContentNeededError as error:
            self.needed.append(error)
        except Exception as error:
            if not self.needed:
                raise UndecidableError(alarm) from error

    def give_up(self, undecidable: UndecidableError) -> None:
        """Go on without what could not be decided on: a record becomes a dead letter, an alarm is taken off."""
        match undecidable.cause:
            case Alarm(run_key=run_key):
                self._orphaned.append(run_key)
            case Answered() | Requested() | Rejected() | Signalled() | Unreadable() as given:
                error = undecidable.__cause__
                letter = dead_letter(given.record, f"{undecidable}: {error!r}", error, self._group_id)
                self._set_aside(given.record.partition, letter)

    def _apply(self, given: Input) -> None:
        match given:
            case Answered():
                self._answered(given)
            case Requested():
                self._requested(given)
            case Rejected():
                self._rejected(given)
            case Signalled():
                self._signalled(given)
            case Unreadable():
                self._set_aside(given.record.partition, dead_letter(given.record, given.reason, None, self._group_id))

    def _ring(self, alarm: Alarm) -> None:
        run = self._runs.get(alarm.run_key)
        if run is None or self._definitions.program(run.workflow, run.version) is None:
            log.warning(OrchestratorEvent.ALARM_ORPHANED, run_key=str(alarm.run_key))
            self._orphaned.append(alarm.run_key)  # or it would ring for ever
            return
        self._decide(run, core.AlarmDue(self._at_ms), f"alarm/{alarm.due_at_ms}")

    def seal(self) -> tuple[Batch, list[Outgoing]]:
        """Everything decided as one batch (without offsets) and the records to send after it is written."""
        batch, by_home = (
            Batch(alarms_cleared=list(self._orphaned)),
            {home: list(aside) for home, aside in self._aside.items()},
        )
        for touched in self._touched.values():
            self._seal_run(touched, batch, by_home.setdefault(touched.run.home, []))
        if self._orphaned:  # an alarm is taken off or set, never both
            batch.alarms_set = [alarm for alarm in batch.alarms_set if alarm.run_key not in self._orphaned]
        batch.charges = added_up(self.charges)
        batch.outbox = [(home, pack(outgoing)) for home, outgoing in by_home.items() if outgoing]
        return batch, [record for outgoing in by_home.values() for record in outgoing]

    def _requested(self, given: Requested) -> None:
        if self._runs.get(given.run_key) is not None:
            return  # published twice: the run is there
        if self._tenants and given.tenant not in self._tenants:
            failure = Failure(code="unknown_tenant", message=f"there is no tenant {given.tenant!r}")
            self._reject(given, given.request, failure, given.tenant, given.run_id)
            return
        resolved = self._definitions.resolve(given.request.workflow, given.run_key)
        decision = starting.start(
            given.request,
            key=given.run_key,
            tenant=given.tenant,
            run_id=given.run_id,
            home=given.record.partition,
            program=None if resolved is None else resolved.program,
            at_ms=self._at_ms,
            traceparent=given.envelope.traceparent,
            facts=self._facts_for(given.tenant, given.record.partition, None if resolved is None else resolved.program),
        )
        self._runs.put(decision.run)
        self._absorb(decision, given.envelope.id, new=True)

    def _rejected(self, given: Rejected) -> None:
        if self._runs.get(given.run_key) is not None:
            return
        # A request that cannot be read still says which run it is; of its workflow only the name is kept.
        request = RunRequested(workflow=given.workflow or UNNAMED)
        failure = Failure(code="invalid_request", message=given.reason)
        self._reject(given, request, failure, given.tenant, given.run_id)

    def _reject(
        self, given: Requested | Rejected | Signalled, request: RunRequested, failure: Failure, tenant: str, run_id: str
    ) -> None:
        decision = starting.reject(
            request,
            failure,
            key=given.run_key,
            tenant=tenant,
            run_id=run_id,
            home=given.record.partition,
            at_ms=self._at_ms,
        )
        self._runs.put(decision.run)
        cause = given.event_id if isinstance(given, Signalled) else given.envelope.id
        self._absorb(decision, cause, new=True)

    def _answered(self, given: Answered) -> None:
        run = self._runs.get(given.run_key)
        if run is None:
            return  # nobody awaits it: the run is gone, by retention
        self._decide(run, core.Outcome(given.outcome, self._at_ms), given.event_id)  # type: ignore[arg-type]  # inbox reads just these

    def _signalled(self, given: Signalled) -> None:
        run = self._runs.get(given.run_key)
        if run is None:
            self._signalled_nobody(given)
            return
        if run.home != given.record.partition:
            self._set_aside(given.record.partition, records.forwarded(given.record, run.home))
            return
        match given.signal.kind:
            case SignalKind.CANCEL:
                self._decide(run, core.Cancelled(given.signal.reason, self._at_ms), given.event_id)
            case SignalKind.REDRIVE:
                self._decide(run, core.Redriven(self._at_ms), given.event_id)
            case SignalKind.CHILD_FINISHED:
                self._child_finished(run, given)

    def _child_finished(self, run: Run, given: Signalled) -> None:
        parent, finished = given.signal.parent, given.signal.finished
        if parent is not None and finished is not None:  # the message's own rule
            message = ChildCompleted(parent.step, parent.request_id, finished)
            self._decide(run, core.ChildEnded(message, self._at_ms), given.event_id)

    def _signalled_nobody(self, given: Signalled) -> None:
        """Something is said to a run that is not here: never was, not yet, or not any more."""
        signal = given.signal
        if signal.kind is SignalKind.CHILD_FINISHED:
            return  # nobody awaits it: the parent is gone, by retention
        if signal.kind is SignalKind.CANCEL and signal.workflow:
            # It overtook the request, which will find the run over. A cancel that is lost would leave a child running.
            failure = Failure(code=starting.CANCELLED, message=signal.reason or "cancelled before it began")
            request = RunRequested(workflow=signal.workflow)
            self._reject(given, request, failure, signal.tenant, signal.run_id)
            return
        reason = f"there is no run {signal.run_id!r} of tenant {signal.tenant!r}"
        self._set_aside(given.record.partition, dead_letter(given.record, reason, None, self._group_id))

    def _decide(self, run: Run, event: core.Event, cause: str) -> None:
        program = self._definitions.of(run)
        if program is not None:
            self._begun.append(run.key)
            self._absorb(core.decide(run, program, event, self._facts_for(run.tenant, run.home, program)), cause)
        elif run.status == "running" or isinstance(event, core.Redriven):
            raise LookupError(f"there is no definition {run.workflow}@{run.version}")

    def _facts_for(self, tenant: str, home: int, program: Program | None) -> Facts:
        if not self._budgeted:
            return self._facts
        allowance, burst = self._budgets.allowance(tenant, home, self._at_ms), None
        if program is not None and program.bursts:
            burst = self._budgets.allowance(OWNER + tenant, home, self._at_ms)
        if allowance is burst is None:
            return self._facts
        return Facts(self._routes, allowance, self._facts.contents, burst)

    def _absorb(self, decision: Decision, cause: str, *, new: bool = False) -> None:
        run = decision.run
        touched = self._touched.get(run.key.int)
        if touched is None:
            touched = self._touched[run.key.int] = Touched(run, new)
        touched.alarm_at_ms = decision.alarm_at_ms
        if new or not decision.empty:
            touched.told.append((decision, cause))
        if decision.route_events:
            self.route_news.events += decision.route_events
            self.route_news.undo += self._routes.count(decision.route_events)
        if decision.charges or decision.burst_charges:
            charges = [Charge(run.tenant, day, run.home, amounts) for day, amounts in decision.charges]
            charges += [Charge(OWNER + run.tenant, day, run.home, taken) for day, taken in decision.burst_charges]
            self._budgets.use(charges)
            self.charges += charges

    def _set_aside(self, home: int, record: Outgoing) -> None:
        self._aside.setdefault(home, []).append(record)

    def _seal_run(self, touched: Touched, batch: Batch, outgoing: list[Outgoing]) -> None:
        run = touched.run
        self._seal_alarm(touched, batch)
        if not touched.told:
            return
        voice = records.Voice(run, self._time)
        cause, asked = "", 0
        for decision, cause in touched.told:
            for request in (*decision.requests, *decision.children):
                asked += 1
                outgoing.append(self.away.request_record(voice, run, request, cause))
            if decision.abandoned or decision.cancellations:
                outgoing += records.withdrawn_records(voice, decision, cause)
        whole = touched.whole()
        self._tell(voice, whole, cause, outgoing)
        if whole.finished is not None:
            self._say_end(voice, run, self.away.end(run, whole.finished), cause, outgoing)
        if asked or whole.finished is not None:
            self.calls.append((run, asked))
        if touched.new:
            batch.started.append(run)
        elif whole.run_changed:
            batch.changed.append(run)
        for step in whole.steps:
            batch.steps.append((run, step))

    def _say_end(
        self, voice: records.Voice, run: Run, finished: RunFinished, cause: str, outgoing: list[Outgoing]
    ) -> None:
        """To everybody, and to the step that asked for the run, where one did."""
        outgoing.append(records.finished_record(voice, run, finished, cause))
        homes = self._definitions.deployment.home_partitions
        answer = records.child_finished_record(voice, run, finished, cause, homes)
        if answer is not None:
            outgoing.append(answer)

    def _seal_alarm(self, touched: Touched, batch: Batch) -> None:
        """A later alarm than the one that is set is left to ring early: moving it would cost a write per step."""
        wanted, current = touched.alarm_at_ms, self._alarms.get(touched.run.key)
        if wanted is None:
            if current is not None:
                batch.alarms_cleared.append(touched.run.key)
        elif current is None or wanted < current or current <= self._at_ms:
            batch.alarms_set.append(Alarm(touched.run.key, touched.run.home, wanted))

    def _tell(self, voice: records.Voice, whole: Decision, cause: str, outgoing: list[Outgoing]) -> None:
        """One progress record as a rule; more where so much changed that one could be too large for the broker."""
        run, changes, start = whole.run, whole.changes, whole.start
        while len(changes) > CHANGES_PER_RECORD_MAX:
            told, changes = changes[:CHANGES_PER_RECORD_MAX], changes[CHANGES_PER_RECORD_MAX:]
            run.sequence += 1
            progress = records.Progress("running", start, told, None, self._at)
            outgoing.append(records.progress_record(voice, run, progress, cause))
            start = None
        run.sequence += 1
        progress = records.Progress(run.status, start, changes, run.error, self._at, whole.caps_neared)
        outgoing.append(records.progress_record(voice, run, progress, cause))

"""Owns what must be true of a run after every decision, whatever it was told."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from hypothesis import note

from penstock.contracts.messages import StepPhase
from penstock.workflow.definition import Block, Chain, Definition, Map, Parallel, RouteBlock, Sections
from penstock.workflow.joins import Vote
from penstock.workflow.loops import Agent, Plan, Refine
from services.orchestrator.core.attempts import Completed
from services.orchestrator.core.breakers import Breakers
from services.orchestrator.core.children import ChildCompleted, ChildRequested
from services.orchestrator.core.decide import ChildEnded, Event, Outcome
from services.orchestrator.core.state import Decision
from services.orchestrator.core.tests.causes import causeless
from services.orchestrator.core.tests.conversation import Conversation
from services.orchestrator.core.tests.drawn_loops import loop_children, loop_limits
from services.orchestrator.core.tests.guards import check_budget, check_caps, check_in_flight, check_routes
from services.orchestrator.core.tests.ledger import Ledger

GIVEN = {"items": [1, 2], "kind": "a"}
AWAITED = (StepPhase.WAITING, StepPhase.RETRYING)


class Checked(Conversation):
    """A conversation that holds every decision against what must always be so."""

    only_sound = False

    def __init__(self, definition: Definition, budget: dict[str, Any] | None, given: Any = None) -> None:
        self.ends = 0
        self.near: dict[str, bool] = {}
        """Whether each cap of the run was used to four fifths after the last decision."""
        self.completed: dict[str, Any] = {}
        self.children_ended: set[str] = set()
        self.answered: set[UUID] = set()
        """The requests to executors whose awaited answer came."""
        self.left_to_end: set[UUID] = set()
        """Those that nobody awaits, but for an undo that hangs on their answers."""
        self.redrives = 0
        self.ledger = Ledger()
        self.limits = dict(_limits(definition.do, ""))
        super().__init__(definition, GIVEN if given is None else given, budget=budget, routes=Breakers())

    def tell(self, event: Event) -> Decision:
        """See Conversation. What was told is shown with a counterexample."""
        note(f"told: {event}")
        if isinstance(event, Outcome | ChildEnded):
            self.ledger.note(self.run, event.message, self.paid(event.message.step))
        if isinstance(event, ChildEnded) and self._awaits(event.message):
            self.children_ended.add(str(event.message.finished.run_id))
        if isinstance(event, Outcome) and self._awaits(event.message):
            self.answered.add(event.message.request_id)
        return super().tell(event)

    def paid(self, step: str) -> set[UUID]:
        """What a step asked for whose answer costs something: model calls, and child runs that were waited for."""
        calls = {each.request_id for each in self.requests.values() if each.step == step}
        children = [each for each in self.children.values() if each.step == step]
        return calls | {each.request_id for each in children if each.message.parent and each.message.parent.awaited}

    def _awaits(self, message: Completed) -> bool:
        step = self.run.steps.get(message.step)
        if step is None or step.phase is not StepPhase.WAITING or self.run.status != "running":
            return False
        return step.request_id == message.request_id and (step.kind == "run") == isinstance(message, ChildCompleted)

    def _heard(self, decision: Decision) -> Decision:
        check_routes(self, decision)
        self.last = super()._heard(decision)
        check_in_flight(self)
        if decision.run.redrives > self.redrives:
            self._forget_what_was_undone()
        self._check_ends(decision)
        self._check_rows(decision)
        self._check_concurrency()
        check_budget(self, decision, self.near)
        check_caps(self)
        self._check_children()
        self._check_cancellations()
        self._check_undo()
        self.ledger.check(decision.run)
        # Guard: no step begins without a cause.
        assert causeless(self.definition.do, decision.run) == []
        return decision

    def _check_ends(self, decision: Decision) -> None:
        run = decision.run
        awaited = [step for step in run.steps.values() if step.phase in AWAITED]
        self.ends += decision.finished is not None
        # Guard: a run ends once, and again only after a redrive.
        assert self.ends == run.redrives + (run.status != "running")
        # Guard: a run goes on only while something is pending, and then it has an alarm for the first of it.
        settling = run.live is not None and run.live.settled_at_ms is not None
        assert (bool(awaited) or settling) == (run.status == "running")
        assert not (awaited and settling)
        dues = [step.due_at_ms for step in awaited if step.due_at_ms is not None]
        assert len(dues) == len(awaited)
        if run.live is not None and run.live.settled_at_ms is not None:
            dues.append(run.live.settled_at_ms)
        assert decision.alarm_at_ms == (min([*dues, run.deadline_at_ms]) if dues else None)

    def _check_rows(self, decision: Decision) -> None:
        run = decision.run
        for path, step in run.steps.items():
            # Guard: what is awaited was asked for, under the id that is awaited.
            if step.phase is StepPhase.WAITING and step.kind != "sleep":
                asked = self.children if step.kind == "run" else self.requests
                assert asked[path, step.attempt].request_id == step.request_id
            # Guard: nothing is awaited beyond the step's own time.
            if step.phase in AWAITED and step.give_up_at_ms is not None:
                assert step.due_at_ms is not None
                assert step.due_at_ms <= step.give_up_at_ms
            # Guard: attempts are bounded.
            assert step.tries <= (4 if step.kind in ("model", "tool", "task", "run", "undo") else 0)
            # Guard: a result is never lost nor replaced.
            if path in self.completed:
                assert (step.phase, step.output) == (StepPhase.COMPLETED, self.completed[path])
            elif step.phase is StepPhase.COMPLETED:
                self.completed[path] = step.output
        assert sum(step.attempt for step in run.steps.values() if step.kind != "undo") <= self.definition.steps_max
        assert len({request.request_id for request in self.requests.values()}) == len(self.requests)
        # Guard: only what is still awaited is sent.
        for request in (*decision.requests, *decision.children):
            if isinstance(request, ChildRequested) and not request.message.deadline:
                continue  # nobody waits for it
            assert run.steps[request.step].phase is StepPhase.WAITING
        assert {change["step"] for change in decision.changes} <= {step.path for step in decision.steps}

    def _forget_what_was_undone(self) -> None:
        self.redrives = self.run.redrives
        undone = {path for path, step in self.run.steps.items() if step.kind == "undo"}
        for path in undone | {path.removesuffix("/undo") for path in undone}:
            self.completed.pop(path, None)  # a run that is not waited for is asked for again within the same decision

    def _check_undo(self) -> None:
        """Guard: only a run that undoes asks for undos, one at a time; and it ends when all of them had their turn."""
        run = self.run
        undos = [step for step in run.steps.values() if step.kind == "undo" and step.phase in AWAITED]
        assert len(undos) <= (run.undoing is not None)
        if run.undoing is not None:
            assert [step for step in run.steps.values() if step.phase in AWAITED] == undos
        if run.status in ("running", "completed") or self.now_ms >= run.deadline_at_ms:
            return
        pinned = [step for step in run.steps.values() if step.undo is not None and step.undo.order]
        over = (StepPhase.COMPLETED, StepPhase.FAILED)
        assert all(run.steps[f"{step.path}/undo"].phase in over for step in pinned)
        # Guard: the order is total.
        assert len({step.undo.order for step in pinned if step.undo is not None}) == len(pinned)

    def _check_children(self) -> None:
        """Guard: a child run is awaited, or its end was heard, or it was given up; never two of these, and once."""
        awaited = {step.request_id for step in self.run.steps.values() if step.phase is StepPhase.WAITING}
        for child in self.children.values():
            if child.message.parent is not None and child.message.parent.awaited:
                run_id = str(child.message.run_id)
                states = [child.request_id in awaited, run_id in self.children_ended]
                assert sum(states) + self.given_up.count(run_id) == 1

    def _check_cancellations(self) -> None:
        """Guard: a request is awaited, or was answered, or its executor was told once that nobody awaits it."""
        steps = self.run.steps
        awaited = {step.request_id for step in steps.values() if step.phase is StepPhase.WAITING}
        self.left_to_end |= {
            step.request_id
            for step in steps.values()
            if step.phase is StepPhase.CANCELLED and step.undo is not None and step.request_id and not step.undo.order
        }
        told = Counter(self.cancelled)
        for request in self.requests.values():
            if steps[request.step].kind == "undo":
                assert told[request.request_id] == 0
                continue
            states = [request.request_id in each for each in (awaited, self.answered, self.left_to_end)]
            assert sum(states) + told[request.request_id] == 1

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
        case Refine() | Agent() | Plan():
            yield from loop_limits(block, path)
            for within, child in loop_children(block, path):
                yield from _limits(child, within)
        case _:
            pass
    for child in children:
        yield from _limits(child, path)

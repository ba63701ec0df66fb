"""Owns undoing: what a run that failed or was cancelled takes back before it says so, and in which order.

A step's undo is pinned in the step's row when the step completes: what it will be asked with, and its place in the
order of completion. So undoing needs no scope and no blocks any more, only rows: `restore` enters the same frame.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, Literal, Protocol

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.parts import UndoTask, UndoTool
from penstock.workflow.whole import CONTENTS
from services.orchestrator.core.contents import RunContents
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, LeafFrame, Succeeded
from services.orchestrator.core.leaf import LeafNode, bounded
from services.orchestrator.core.state import Request, Run, Step, Undo
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import RefusedError, shortened

OUTPUT: Final = "output"
NAMED_MAX: Final = 8
"""Of the steps that could not be undone, how many the run's error names."""


class Undoing(Protocol):
    """What a step that can be an undo offers."""

    given: Compiled
    """What it is asked with."""

    def rendered(self, scope: Scope) -> Any:
        """What it is asked with, in a scope. Raises ExpressionError or RefusedError."""

    def requested(self, attribution: dict[str, Any], given: Any) -> Request:
        """The request itself."""


class UndoNode(LeafNode):
    """A compiled undo: it asks with what was pinned."""

    __slots__ = ("_inner",)

    def __init__(self, block: UndoTool | UndoTask, inner: LeafNode) -> None:
        super().__init__(block, "undo", inner.output_schema)
        self._inner: Undoing = inner  # type: ignore[assignment]  # tools and tasks are the steps that offer it

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> Request:  # noqa: ARG002  # it was rendered before
        """See LeafNode."""
        pinned: Undo = scope(PINNED)
        if pinned.fault is not None:
            raise ExpressionError(pinned.fault)
        return self._inner.requested(attribution, pinned.given)

    def pinned(self, order: int, scope: Scope, output: Any) -> Undo:
        """What the undo of a step that completed will be asked with."""

        def names(name: str) -> Any:
            return output if name == OUTPUT else scope(name)

        try:
            # It is kept in the step's row until it is asked for, so it is no larger than what travels.
            return Undo(order, bounded(self._inner.rendered(names), "what the undo is asked with"))
        except (ExpressionError, RefusedError) as error:
            return Undo(order, fault=str(error))

    def unsettled(self, leaf: LeafFrame) -> Undo:
        """What a step that is cancelled while it waits leaves behind: it may take effect all the same.

        Its blocks will be gone when the answer comes, so the names that the undo sees are kept.
        """
        names = {reference.name for reference in self._inner.given.references} - {OUTPUT}
        scope = {}
        for name in sorted(names):
            try:
                scope[name] = leaf.parent.find(name)
            except KeyError:
                continue  # the undo fails for it, and says so
        return Undo(scope=scope, until_ms=leaf.step.due_at_ms)


PINNED: Final = "pinned"


class UndoFrame(Frame):
    """A run's undoing: one step after the other, the one that completed last first; a failure stops nothing."""

    __slots__ = ("_next", "_steps")

    def __init__(self, run: Run, contents: RunContents | None) -> None:
        super().__init__(None, 0, "", {CONTENTS: contents})
        undoable = [(step.undo.order, step) for step in run.steps.values() if step.undo is not None and step.undo.order]
        self._steps = [step for _, step in sorted(undoable, key=lambda pair: -pair[0])]
        self._next = 0

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:  # noqa: ARG002  # an undo that failed is named at the end
        """The next one."""
        self._next = slot + 1
        return self.go_on(turn)

    def go_on(self, turn: Turn) -> Answer:
        """Asks for undos until one is awaited."""
        while self._next < len(self._steps):
            slot, step = self._next, self._steps[self._next]
            path = undo_path(step)
            node = turn.live.undos[step.path.rpartition("/")[2]]
            answer = node.enter(turn, Enclosure(self, slot, path, {PINNED: step.undo}), 0, path)
            if answer is None:
                return None
            self._next += 1
        return Succeeded(None)


def undo_path(step: Step) -> str:
    """Where the row of a step's undo is."""
    return f"{step.path}/undo"


def begun(turn: Turn, status: Literal["failed", "cancelled"], error: Failure | None) -> bool:
    """Begins undoing; whether there is something to wait for before the run is over."""
    run = turn.run
    if not any(step.undo is not None for step in run.steps.values()):
        return False
    run.undoing = status
    run.error = error
    run.deadline_at_ms = turn.at_ms + turn.live.undo_ms
    run.live = turn.live
    turn.decision.run_changed = True
    _expire(turn)
    return go_on(turn) is None


def go_on(turn: Turn) -> Answer:
    """Undoes, once every answer that may still come has come or will not."""
    unsettled = list(_unsettled(turn.run))
    turn.live.settled_at_ms = max((undo.until_ms or 0 for _, undo in unsettled), default=None)
    return None if unsettled else UndoFrame(turn.run, turn.live.contents).go_on(turn)


def settle(turn: Turn) -> Answer:
    """The time for answers that may still come is over."""
    _expire(turn)
    return go_on(turn)


def unsettled_step(run: Run, path: str) -> Step | None:
    """The step, where it was cancelled while it waited and has an undo."""
    step = run.steps.get(path)
    return step if step is not None and _may_take_effect(step) else None


def late(turn: Turn, step: Step, output: Any, *, succeeded: bool) -> None:
    """The answer of a step that was cancelled while it waited: what took effect has to be undone as well."""
    pinned = step.undo
    if pinned is None or pinned.scope is None:
        raise ValueError(f"{step.path} waits for nothing")
    step.undo = None
    if succeeded:
        turn.live.undo_order += 1
        node = turn.live.undos[step.path.rpartition("/")[2]]
        scope = {**pinned.scope, CONTENTS: turn.live.contents}
        step.undo = node.pinned(turn.live.undo_order, scope.__getitem__, output)
    turn.touched[step.path] = step


def explained(run: Run) -> Failure | None:
    """Why the run failed or was cancelled, and what could not be undone."""
    error = run.error
    left = sorted((step for step in run.steps.values() if step.undo is not None), key=lambda step: step.path)
    said = [fault for step in left if (fault := _not_undone(run, step)) is not None]
    if error is None or not said:
        return error
    more = f" and {len(said) - NAMED_MAX} more" if len(said) > NAMED_MAX else ""
    text = f"{error.message}. Not undone: {'; '.join(said[:NAMED_MAX])}{more}"
    return Failure(code=error.code, message=shortened(text), step=error.step)


def forget(turn: Turn) -> bool:
    """A run that undid is redriven: what was undone begins again, and so does what failed; whether anything was."""
    run = turn.run
    undos = [step for _, step in sorted(run.steps.items()) if step.kind == "undo"]
    for undo in undos:
        step = run.steps[undo.path.removesuffix("/undo")]
        if undo.phase is StepPhase.COMPLETED:
            _begins_again(turn, step)
        _begins_again(turn, undo)
    culprit = run.steps.get(turn.culprit or "")
    if undos and culprit is not None and culprit.phase is StepPhase.FAILED:
        _begins_again(turn, culprit)
    return bool(undos)


def _begins_again(turn: Turn, step: Step) -> None:
    """As a cancelled step does as soon as its block is entered, now or behind another that begins again."""
    step.phase = StepPhase.CANCELLED
    step.output = step.undo = None
    turn.touched[step.path] = step


def _may_take_effect(step: Step) -> bool:
    """Whether it was cancelled while it waited. One that is asked for again has an answer of its own to wait for."""
    return step.phase is StepPhase.CANCELLED and step.undo is not None and step.undo.scope is not None


def _unsettled(run: Run) -> Iterable[tuple[Step, Undo]]:
    # By their paths: a restored run has its rows in another order than one that was never away.
    for _, step in sorted(run.steps.items()):
        if _may_take_effect(step) and step.undo is not None:
            yield step, step.undo


def _expire(turn: Turn) -> None:
    for step, undo in list(_unsettled(turn.run)):
        if (undo.until_ms or 0) <= turn.at_ms:
            step.undo = replace(undo, scope=None, fault="it may have taken effect: no answer came in time")
            turn.touched[step.path] = step


def _not_undone(run: Run, step: Step) -> str | None:
    undo, row = step.undo, run.steps.get(undo_path(step))
    if undo is None or (row is not None and row.phase is StepPhase.COMPLETED):
        return None
    if not undo.order:
        return f"{step.path} ({undo.fault or 'it may have taken effect: its answer was still awaited'})"
    if row is not None and row.phase is StepPhase.FAILED and row.error is not None:
        return f"{step.path} ({row.error.message})"
    return f"{step.path} (the time for undoing was over; raise undo_seconds of the workflow)"

"""Owns `sleep`: a row with a due time, woken by the run's alarm; nothing is sent, nothing is answered."""

from typing import Any, cast

from penstock.contracts.envelope import rfc3339
from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.gates import Sleep, Until, instant_ms
from penstock.workflow.parts import Leaf
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import Answer, Failed, Frame, LeafFrame, Succeeded
from services.orchestrator.core.leaf import LeafNode
from services.orchestrator.core.state import Request, Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import shortened


class _TooLongError(ValueError):
    """A sleep beyond its cap."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class SleepNode(LeafNode):
    """A compiled sleep. `wake` gives seconds, or where `until` holds a time."""

    __slots__ = ("seconds_max", "until", "wake")

    def __init__(self, block: Sleep, compiler: Compiler) -> None:
        super().__init__(Leaf(id=block.id), "sleep", None)
        self.seconds_max = block.sleep_seconds_max
        self.until = isinstance(block.sleep, Until)
        given = block.sleep.until if isinstance(block.sleep, Until) else block.sleep
        where = f"{block.id}.sleep.until" if self.until else f"{block.id}.sleep"
        self.wake: Compiled = compiler.value(given, where)

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> Request:  # noqa: ARG002  # as every leaf says it
        """Nobody is asked."""
        raise AssertionError("a sleep asks nobody")

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Falls asleep, or answers from the row of one that did."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            return self._begin(turn, LeafFrame(self, _anew(turn, step, path), parent, slot))
        match step.phase:
            case StepPhase.COMPLETED:
                return Succeeded(None)
            case StepPhase.FAILED:
                return Failed(cast(Failure, step.error))
            case StepPhase.CANCELLED:
                return None
            case StepPhase.WAITING | StepPhase.RETRYING:
                turn.live.add(LeafFrame(self, step, parent, slot))
                return None

    def due(self, turn: Turn, leaf: LeafFrame) -> Answer:
        """Wakes up."""
        del turn.live.leaves[leaf.step.path]
        leaf.step.phase = StepPhase.COMPLETED
        leaf.step.due_at_ms = None
        turn.changed(leaf.step)
        return Succeeded(None)

    def _begin(self, turn: Turn, leaf: LeafFrame) -> Answer:
        step = leaf.step
        try:
            due_at_ms = self._due_at_ms(leaf.parent.find, cast(int, step.dispatched_at_ms))
        except ExpressionError as error:
            return _failed(turn, step, "expression_failed", f"sleep: {error}")
        except _TooLongError as error:
            text = (
                f"the sleep would take {error.seconds:g} s, more than {self.seconds_max:g}, the `sleep_seconds_max` of "
                f"`{self.id}`: raise it there"
            )
            return _failed(turn, step, "sleep_too_long", text)
        deadline_ms = turn.run.deadline_at_ms
        if due_at_ms <= turn.at_ms:
            step.phase = StepPhase.COMPLETED
            turn.pin(step)
            return Succeeded(None)
        if due_at_ms >= deadline_ms:
            # Known now: better than a run that sleeps to its deadline and fails there.
            text = f"the sleep would end at {rfc3339(due_at_ms)}, the run's deadline is {rfc3339(deadline_ms)}"
            return _failed(turn, step, "deadline_exceeded", text)
        step.due_at_ms = due_at_ms
        turn.pin(step)
        turn.live.add(leaf)
        return None

    def _due_at_ms(self, scope: Scope, began_at_ms: int) -> int:
        """When the sleep ends. Raises ExpressionError or _TooLongError."""
        given = self.wake(scope)
        if self.until:
            try:
                due_at_ms = instant_ms(given if isinstance(given, str) else str(given))
            except ValueError as error:
                raise ExpressionError(str(error)) from None
            given = (due_at_ms - began_at_ms) / 1000
        elif type(given) not in (int, float) or given < 0:
            raise ExpressionError(f"{str(given)[:80]} ({type(given).__name__}) is not a number of seconds")
        if given > self.seconds_max:
            raise _TooLongError(given)
        return due_at_ms if self.until else began_at_ms + round(given * 1000)


def _anew(turn: Turn, step: Step | None, path: str) -> Step:
    """The row of a sleep that begins. One that was cut short goes on to when it would have ended."""
    cut_short = step is not None and step.phase is StepPhase.CANCELLED
    began_at_ms = step.dispatched_at_ms if step is not None and cut_short else turn.at_ms
    return Step(path, "sleep", StepPhase.WAITING, dispatched_at_ms=began_at_ms)


def _failed(turn: Turn, step: Step, code: str, message: str) -> Failed:
    step.phase = StepPhase.FAILED
    step.error = Failure(code=code, message=shortened(message), step=step.path)
    turn.pin(step)
    return Failed(step.error)


def compile_sleep(block: Sleep, compiler: Compiler) -> Node:
    """The sleep."""
    return SleepNode(block, compiler)

"""Owns `check`: a gate that lets through or fails; what it found is a row, so that it is asked once."""

from dataclasses import dataclass

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError
from penstock.workflow.gates import Gate
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import Answer, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import shortened


@dataclass(frozen=True, slots=True)
class GateNode:
    """A compiled gate. `source` is the condition as its author wrote it; `message` None where that is all to say."""

    id: str
    source: str
    condition: Compiled
    message: Compiled | None

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:  # noqa: ARG002  # it is over at once
        """Looks, unless the row says what was seen."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            step = self._look(turn, parent, path)
        return Succeeded(step.output) if step.error is None else Failed(step.error)

    def _look(self, turn: Turn, scope: Frame, path: str) -> Step:
        step = Step(path, "check", StepPhase.COMPLETED)
        try:
            # Python and MiniJinja agree on which JSON values hold: all but null, false, zero and what is empty.
            holds = bool(self.condition(scope.find))
        except ExpressionError as error:
            step.error = Failure(code="expression_failed", message=f"check: {error}", step=path)
        else:
            if holds:
                step.output = True
            else:
                step.error = Failure(code="check_failed", message=self._said(scope), step=path)
        if step.error is not None:
            step.phase = StepPhase.FAILED
        turn.pin(step)
        return step

    def _said(self, scope: Frame) -> str:
        plain = f"`{self.source}` does not hold"
        if self.message is None:
            return shortened(plain)
        try:
            return shortened(self.message(scope.find))
        except ExpressionError as error:
            # The check failed, whatever its message: what cannot be said must not hide that.
            return shortened(f"{plain}; its message cannot be written: {error}")


def compile_gate(block: Gate, compiler: Compiler) -> Node:
    """The gate."""
    return GateNode(
        id=block.id,
        source=block.check,
        condition=compiler.expression(block.check, f"{block.id}.check"),
        message=compiler.text(block.message, f"{block.id}.message") if block.message else None,
    )

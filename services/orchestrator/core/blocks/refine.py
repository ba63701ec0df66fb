"""Owns `refine`: generate, judge, and again with the critique, until the bar, a cap or no better score.

What a round was worth is a row at `<refine>[round]`, so that it is judged once. That the loop is over is no row: it
follows from the rounds.
"""

from dataclasses import dataclass
from typing import Any, cast

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.loops import Refine, RefineLoop
from services.orchestrator.core.caps import CappedFrame
from services.orchestrator.core.compiler import Compiler, DefinitionError, Node
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, Succeeded
from services.orchestrator.core.leaf import TooLargeError, bounded, evaluated
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import VALUE_TOO_LARGE


@dataclass(frozen=True, slots=True)
class RefineNode:
    """A compiled refine. `evaluate` is None where `score` judges."""

    id: str
    loop: RefineLoop
    generate: Node
    evaluate: Node | None
    score: Compiled | None
    critique: Compiled | None

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins with the first candidate."""
        return RefineFrame(self, turn, parent, slot, path).go_on(turn)

    def verdict(self, scope: Scope, evaluated_as: Any) -> dict[str, Any]:
        """The score and the critique of a candidate. Raises ExpressionError or TooLargeError."""
        if self.score is not None:
            score = evaluated(self.score, scope, "score")
            critique = None if self.critique is None else evaluated(self.critique, scope, "critique")
        elif isinstance(evaluated_as, dict):
            score, critique = evaluated_as.get("score"), evaluated_as.get("critique")
        else:
            raise ExpressionError(f"evaluate: its output must be an object with a `score`, it is {_kind(evaluated_as)}")
        if type(score) not in (int, float):
            raise ExpressionError(f"{'score' if self.score else 'evaluate: `score`'} is {_kind(score)}, not a number")
        return {"score": score, "critique": bounded(critique, "critique")}


class RefineFrame(CappedFrame):
    """An open refine: which round it is in, the last candidate and the best."""

    __slots__ = ("_best", "_best_score", "_candidate", "_critique", "_judging", "_node", "_round", "_stale")

    def __init__(self, node: RefineNode, turn: Turn, parent: Frame, slot: int, path: str) -> None:
        super().__init__(turn, node.loop.caps, parent, slot, path)
        self._node = node
        self._round = 0
        self._judging = False
        self._candidate: Any = None
        self._critique: Any = None
        self._best: Any = None
        self._best_score: float | None = None
        self._stale = 0

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:  # noqa: ARG002  # one child is open
        """Judges a candidate, or counts its score."""
        if isinstance(answer, Failed):
            return answer
        ended = self._take(turn, answer.output)
        return ended if ended is not None else self.go_on(turn)

    def go_on(self, turn: Turn) -> Answer:
        """Enters what is next until one is not over at once."""
        while True:
            answer = self._enter(turn)
            if not isinstance(answer, Succeeded):
                return answer
            ended = self._take(turn, answer.output)
            if ended is not None:
                return ended

    def _enter(self, turn: Turn) -> Answer:
        child = cast(Node, self._node.evaluate) if self._judging else self._node.generate
        within = self._within()
        if not self._judging:
            within.names["critique"] = self._critique
        return child.enter(turn, within, 0, f"{within.path}/{child.id}")

    def _take(self, turn: Turn, output: Any) -> Answer:
        """Keeps what the open child gave; None: the loop goes on."""
        if not self._judging:
            self._candidate = output
            if self._node.evaluate is not None:
                self._judging = True
                return None
        self._judging = False
        step = turn.run.steps.get(self._within().path)
        if step is None or turn.revives(step):
            step = self._judge(turn, output)
        if step.error is not None:
            return Failed(step.error)
        self._critique = step.output["critique"]
        return self._counted(step.output["score"])

    def _judge(self, turn: Turn, output: Any) -> Step:
        within = self._within()
        step = Step(within.path, "refine", StepPhase.COMPLETED)
        try:
            step.output = self._node.verdict(within.find, self.whole(output))
        except (ExpressionError, TooLargeError) as error:
            code = VALUE_TOO_LARGE if isinstance(error, TooLargeError) else "expression_failed"
            step.phase = StepPhase.FAILED
            step.error = Failure(code=code, message=str(error), step=step.path)
        turn.pin(step)
        return step

    def _counted(self, score: float) -> Answer:
        """Whether the loop is over with this score."""
        loop = self._node.loop
        self._round += 1
        if self._best_score is None or score > self._best_score:
            self._best, self._best_score, self._stale = self._candidate, score, 0
        else:
            self._stale += 1
        if score >= loop.bar:
            return self._over("bar")
        if self._round >= loop.rounds_max:
            return self._capped(f"within {loop.rounds_max} rounds", "rounds_max", "cap")
        if loop.patience is not None and self._stale >= loop.patience:
            return self._capped(f"and {loop.patience} rounds brought no better score", "patience", "no_improvement")
        return None

    def _capped(self, how: str, cap: str, stopped: str) -> Answer:
        loop = self._node.loop
        if loop.on_cap == "best":
            return self._over(stopped)
        text = (
            f"no candidate of `{self._node.id}` reached the bar {loop.bar:g} {how}; the best score was "
            f"{self._best_score:g}: raise `refine.{cap}`, lower `refine.bar`, or take the best with `on_cap: best`"
        )
        return Failed(Failure(code="refine_cap", message=text, step=self.path))

    def _over(self, stopped: str) -> Succeeded:
        output = {"candidate": self._best, "score": self._best_score, "rounds": self._round, "stopped": stopped}
        return Succeeded(output)

    def _within(self) -> Enclosure:
        """What is inside this round, with its names."""
        names = {"round": self._round, "candidate": self._candidate}
        return Enclosure(self, 0, f"{self.path}[{self._round}]", names)


def compile_refine(block: Refine, compiler: Compiler) -> Node:
    """The loop with its blocks."""
    loop, where = block.refine, f"{block.id}.refine"
    if (loop.evaluate is None) == (loop.score is None):
        raise DefinitionError(f"{where}: exactly one of `evaluate` and `score` judges")
    return RefineNode(
        id=block.id,
        loop=loop,
        generate=compiler.block(loop.generate),
        evaluate=None if loop.evaluate is None else compiler.block(loop.evaluate),
        score=None if loop.score is None else compiler.expression(loop.score, f"{where}.score"),
        critique=None if loop.critique is None else compiler.value(loop.critique, f"{where}.critique"),
    )


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__

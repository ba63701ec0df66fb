"""Owns `route`: the first case whose `when` holds is taken; the choice is a row, so that it is made once.

Where a model chooses instead, see blocks/classify.py.
"""

from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.definition import Case, RouteBlock
from penstock.workflow.expressions import Compiled, ExpressionError
from services.orchestrator.core.blocks.classify import Ways, compile_classified
from services.orchestrator.core.compiler import Compiler, DefinitionError, Node
from services.orchestrator.core.frames import Answer, Frame
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn

OTHERWISE: Final = "otherwise"
"""What the row says where no case held."""


@dataclass(frozen=True, slots=True)
class RouteNode:
    """A compiled route; `otherwise` is among its ways where it is given."""

    id: str
    cases: tuple[tuple[str, Compiled], ...]
    ways: Ways

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Chooses, unless the row says what was chosen, and enters the chosen block."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            step = self._choose(turn, parent, path)
        return self.ways.take(turn, step, parent, slot)

    def _choose(self, turn: Turn, parent: Frame, path: str) -> Step:
        step = Step(path, "route", StepPhase.COMPLETED)
        try:
            step.output = next((case for case, when in self.cases if when(parent.find)), OTHERWISE)
        except ExpressionError as error:
            step.phase = StepPhase.FAILED
            step.error = Failure(code="expression_failed", message=f"when: {error}", step=path)
        turn.pin(step)
        return step


def compile_route(block: RouteBlock, compiler: Compiler) -> Node:
    """The route with its ways."""
    ways = {case.case: compiler.block(case.do) for case in block.route}
    if len(ways) < len(block.route) or OTHERWISE in ways:
        raise DefinitionError(f"{block.id}.route: cases need names of their own, and none may be `{OTHERWISE}`")
    if block.otherwise is not None:
        ways[OTHERWISE] = compiler.block(block.otherwise)
    if block.classify is not None:
        return compile_classified(block, block.classify, Ways(ways, OTHERWISE), compiler)
    cases = tuple((case.case, _condition(case, block.id, compiler)) for case in block.route)
    return RouteNode(id=block.id, cases=cases, ways=Ways(ways, OTHERWISE))


def _condition(case: Case, block_id: str, compiler: Compiler) -> Compiled:
    where = f"{block_id}.route.{case.case}.when"
    if case.when is None:
        raise DefinitionError(f"{where}: every case needs one, or the route a `classify`")
    return compiler.expression(case.when, where)

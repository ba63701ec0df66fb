"""Owns `route`: the first case whose `when` holds is taken; the choice is a row, so that it is made once."""

from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.definition import RouteBlock
from penstock.workflow.expressions import Compiled, ExpressionError
from services.orchestrator.core.compiler import Compiler, DefinitionError, Node
from services.orchestrator.core.frames import Answer, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn

OTHERWISE: Final = "otherwise"
"""What the row says where no case held."""


@dataclass(frozen=True, slots=True)
class RouteNode:
    """A compiled route. `ways` are the blocks by case, `otherwise` among them where it is given."""

    id: str
    cases: tuple[tuple[str, Compiled], ...]
    ways: dict[str, Node]

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Chooses, unless the row says what was chosen, and enters the chosen block."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            step = self._choose(turn, parent, path)
        if step.error is not None:
            return Failed(step.error)
        way = self.ways.get(step.output)
        if way is None:
            return Succeeded(None)
        # The chosen block's end is the route's: it answers to the route's parent, in the route's place.
        return way.enter(turn, parent, slot, f"{path}/{way.id}")

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
    return RouteNode(
        id=block.id,
        cases=tuple(
            (case.case, compiler.expression(case.when, f"{block.id}.route.{case.case}.when")) for case in block.route
        ),
        ways=ways,
    )

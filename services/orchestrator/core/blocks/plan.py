"""Owns `plan`: a model divides the work into sub-tasks, which are done side by side, round by round, and joined.

What was planned is the row of the planner's step, at `<plan>[round]/plan`; all else follows from it.
"""

from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.messages import ChatMessage, Failure
from penstock.workflow.expressions import ExpressionError, Scope
from penstock.workflow.loops import Plan, Planner
from penstock.workflow.parts import JsonSchema
from services.orchestrator.core.blocks.branches import BranchesFrame
from services.orchestrator.core.blocks.model import ModelNode
from services.orchestrator.core.caps import CappedFrame
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.dialogue import planning
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, Succeeded
from services.orchestrator.core.leaf import evaluated
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import BLOB_UNREADABLE

LEFT: Final = "tasks left"
"""What the number of sub-tasks that may still be planned is called in the scope: no name that a template can have."""
PLANNING: Final = 0
TASKS: Final = 1
JOINING: Final = 2
"""Slots of what a plan has open, one after the other."""


class PlannerNode(ModelNode):
    """The model call that plans a round. The scope holds how many sub-tasks are left."""

    __slots__ = ("_planner",)

    def __init__(self, planner: Planner, compiler: Compiler) -> None:
        super().__init__(planner.step(), compiler)
        self._planner = planner

    def messages(self, scope: Scope) -> list[ChatMessage]:
        """The author's own messages, and what form the answer has."""
        system = "" if self.system is None else evaluated(self.system, scope, "system") + "\n\n"
        return [
            ChatMessage(role="system", content=system + planning(self._planner, scope(LEFT))),
            ChatMessage(role="user", content=evaluated(self.prompt, scope, "prompt")),
        ]

    def guide(self, scope: Scope) -> JsonSchema:
        """No more sub-tasks than are left."""
        return self._planner.plan_schema(scope(LEFT))


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A compiled plan. `join` is None where the results are the output."""

    id: str
    block: Plan
    planner: PlannerNode
    child: Node
    join: Node | None

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins with the first round."""
        return PlanFrame(self, turn, parent, slot, path).go_on(turn)


class PlanFrame(CappedFrame):
    """An open plan: which round it is in, what is open there, and the results so far."""

    __slots__ = ("_node", "_open", "_results", "_round", "_tasks")

    def __init__(self, node: PlanNode, turn: Turn, parent: Frame, slot: int, path: str) -> None:
        super().__init__(turn, node.block.caps, parent, slot, path)
        self._node = node
        self._round = 0
        self._open = PLANNING
        self._tasks: list[Any] = []
        self._results: list[dict[str, Any]] = []

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:  # noqa: ARG002  # one child is open
        """Goes on with what was planned, done or joined."""
        if isinstance(answer, Failed):
            return answer
        ended = self._take(answer.output)
        return ended if ended is not None else self.go_on(turn)

    def go_on(self, turn: Turn) -> Answer:
        """Enters what is next until one is not over at once."""
        while True:
            answer = self._enter(turn)
            if not isinstance(answer, Succeeded):
                return answer
            ended = self._take(answer.output)
            if ended is not None:
                return ended

    def _enter(self, turn: Turn) -> Answer:
        within = f"{self.path}[{self._round}]"
        if self._open == PLANNING:
            names = {"round": self._round, "results": list(self._results), LEFT: self._left()}
            planner = self._node.planner
            inside = Enclosure(self, PLANNING, within, names)
            return planner.enter(turn, inside, 0, f"{within}/{planner.id}")
        if self._open == TASKS:
            return TasksFrame(self._node, self._tasks, self._round, self, f"{within}/task").go_on(turn)
        if self._node.join is None:
            return Succeeded(self._results)
        inside = Enclosure(self, JOINING, self.path, {"results": self._results})
        return self._node.join.enter(turn, inside, 0, f"{self.path}/{self._node.join.id}")

    def _take(self, output: Any) -> Answer:
        """Keeps what the open child gave; None: the plan is not over."""
        if self._open == PLANNING:
            try:
                return self._planned(self.whole(output)["tasks"])
            except ExpressionError as error:
                step = f"{self.path}[{self._round}]/{self._node.planner.id}"
                return Failed(Failure(code=BLOB_UNREADABLE, message=str(error), step=step))
        if self._open == JOINING:
            return Succeeded(output)
        self._results += [{"task": task, "output": each} for task, each in zip(self._tasks, output, strict=True)]
        self._round += 1
        more = self._round < self._node.block.plan.rounds_max and self._left() > 0
        self._open = PLANNING if more else JOINING
        return None

    def _planned(self, tasks: list[Any]) -> Answer:
        if len(tasks) > self._left():
            name, wanted = self._node.id, len(self._results) + len(tasks)
            tasks_max = self._node.block.plan.tasks_max
            text = (
                f"the planner of `{name}` wants {wanted} sub-tasks, its tasks_max is {tasks_max}; "
                f"none of this round was begun: raise `plan.tasks_max` of `{name}`"
            )
            step = f"{self.path}[{self._round}]/{self._node.planner.id}"
            return Failed(Failure(code="plan_tasks_exceeded", message=text, step=step))
        self._tasks = tasks
        self._open = TASKS if tasks else JOINING
        return None

    def _left(self) -> int:
        return self._node.block.plan.tasks_max - len(self._results)


class TasksFrame(BranchesFrame):
    """The open sub-tasks of one round; the first that fails ends the plan."""

    __slots__ = ("_failure", "_left", "_node", "_outputs", "_round", "_tasks")

    def __init__(self, node: PlanNode, tasks: list[Any], number: int, parent: Frame, path: str) -> None:
        super().__init__(len(tasks), node.block.max_concurrency, parent, TASKS, path)
        self._node = node
        self._tasks = tasks
        self._round = number
        self._outputs: list[Any] = [None] * len(tasks)
        self._left = len(tasks)
        self._failure: Failed | None = None

    def begin(self, turn: Turn, slot: int) -> Answer:
        """Enters the block for one sub-task."""
        child = self._node.child
        names = {"task": self._tasks[slot], "index": slot, "round": self._round}
        inside = Enclosure(self, slot, f"{self.path}[{slot}]", names)
        return child.enter(turn, inside, 0, f"{inside.path}/{child.id}")

    def take(self, slot: int, answer: Succeeded | Failed) -> None:
        """Keeps the output of a sub-task."""
        if isinstance(answer, Failed):
            self._failure = answer
            return
        self._outputs[slot] = answer.output
        self._left -= 1

    def over(self, turn: Turn) -> Answer:  # noqa: ARG002  # nothing is decided here that needs a row
        """All are done, or one failed."""
        if self._failure is not None:
            return self._failure
        return None if self._left else Succeeded(self._outputs)


def compile_plan(block: Plan, compiler: Compiler) -> Node:
    """The plan with its planner and its blocks."""
    planner, where = block.plan, f"{block.id}.plan"
    # Compiled here for the place in the definition that a fault is named by.
    compiler.routes(planner.model, where)
    compiler.text(planner.prompt, f"{where}.prompt")
    if planner.system is not None:
        compiler.text(planner.system, f"{where}.system")
    compiler.schema(planner.task_schema, f"{where}.task_schema")
    return PlanNode(
        id=block.id,
        block=block,
        planner=PlannerNode(planner, compiler),
        child=compiler.block(block.do),
        join=None if block.join is None else compiler.block(block.join),
    )

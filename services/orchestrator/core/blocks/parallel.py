"""Owns `parallel`: sections side by side, or one block for each item of a list, never more at once than allowed.

`join: all` fails with the first branch that fails and cancels the others; `best_effort` puts the failure in the
failed branch's place; with a quorum enough branches end it. For `vote` see blocks/vote.py.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.definition import Map, Parallel, Sections
from penstock.workflow.expressions import Compiled, ExpressionError
from penstock.workflow.joins import Quorum, Vote
from services.orchestrator.core.blocks.branches import BranchesFrame
from services.orchestrator.core.blocks.vote import compile_vote
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import shortened


class JoinedFrame(BranchesFrame):
    """An open block whose output is those of its branches."""

    __slots__ = ("_failures", "_join", "_succeeded", "outputs")

    def __init__(self, block: Sections | Map, count: int, parent: Frame, slot: int, path: str) -> None:
        super().__init__(count, block.max_concurrency, parent, slot, path)
        self.outputs: list[Any] = [None] * count
        self._join = block.join
        self._succeeded = 0
        self._failures: dict[int, Failure] = {}

    @abstractmethod
    def joined(self) -> Any:
        """The block's output from those of all branches."""

    def take(self, slot: int, answer: Succeeded | Failed) -> None:
        """Keeps a branch's output, or its failure in its place."""
        if isinstance(answer, Succeeded):
            self.outputs[slot] = answer.output
            self._succeeded += 1
            return
        self._failures[slot] = answer.failure
        if self._join == "best_effort":
            self.outputs[slot] = {"error": answer.failure.model_dump()}

    def over(self, turn: Turn) -> Answer:  # noqa: ARG002  # only a vote writes a row
        """Whether the join is decided."""
        if isinstance(self._join, Quorum):
            return self._met(self._join.quorum)
        if self._failures and self._join == "all":
            return Failed(next(iter(self._failures.values())))
        return Succeeded(self.joined()) if self._succeeded + len(self._failures) == self.count else None

    def _met(self, quorum: int) -> Answer:
        if self._succeeded == quorum:
            return Succeeded(self.joined())
        if self.count - len(self._failures) >= quorum:
            return None
        text = f"{quorum} of {self.count} branches must succeed (`parallel.join.quorum`)"
        if self._failures:
            # The first by its place, not by its time: a restored run does not know the times.
            first = self._failures[min(self._failures)]
            text += f" and {len(self._failures)} failed, the first of them {first.step}: {first.message}"
        return Failed(Failure(code="quorum_missed", message=shortened(text), step=self.path))


class SectionsFrame(JoinedFrame):
    """Open sections."""

    __slots__ = ("_node",)

    def __init__(self, node: "SectionsNode", parent: Frame, slot: int, path: str) -> None:
        super().__init__(node.block, len(node.children), parent, slot, path)
        self._node = node

    def begin(self, turn: Turn, slot: int) -> Answer:
        """Enters a section."""
        child = self._node.children[slot]
        return child.enter(turn, self, slot, f"{self.path}/{child.id}")

    def joined(self) -> Any:
        """Each section's output under its id."""
        return {child.id: output for child, output in zip(self._node.children, self.outputs, strict=True)}


class MapFrame(JoinedFrame):
    """An open map."""

    __slots__ = ("_items", "_node")

    def __init__(self, node: "MapNode", items: list[Any], parent: Frame, slot: int, path: str) -> None:
        super().__init__(node.block, len(items), parent, slot, path)
        self._node = node
        self._items = items

    def begin(self, turn: Turn, slot: int) -> Answer:
        """Enters the block for one item."""
        child = self._node.child
        item = Enclosure(self, slot, f"{self.path}[{slot}]", {"item": self._items[slot], "index": slot})
        return child.enter(turn, item, 0, f"{item.path}/{child.id}")

    def joined(self) -> Any:
        """The outputs in the items' order."""
        return self.outputs


@dataclass(frozen=True, slots=True)
class SectionsNode:
    """Compiled sections."""

    id: str
    block: Sections
    children: tuple[Node, ...]

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins as many sections as may run at once."""
        return SectionsFrame(self, parent, slot, path).go_on(turn)


@dataclass(frozen=True, slots=True)
class MapNode:
    """A compiled map."""

    id: str
    block: Map
    items: Compiled
    child: Node

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Counts the items, unless the row says how many there are, and begins as many as may run at once."""
        step = turn.run.steps.get(path)
        items: list[Any] = []
        if step is None or turn.revives(step):
            step, items = self._count(turn, parent, path)
        elif step.error is None:
            items = self.items(parent.find)
        if step.error is not None:
            return Failed(step.error)
        return MapFrame(self, items[: cast(int, step.output)], parent, slot, path).go_on(turn)

    def _count(self, turn: Turn, parent: Frame, path: str) -> tuple[Step, list[Any]]:
        step = Step(path, "map", StepPhase.COMPLETED)
        items: list[Any] = []
        try:
            items = self.items(parent.find)
            fault = self._fault(items)
        except ExpressionError as error:
            fault = f"map: {error}"
        if fault is None:
            step.output = len(items)
        else:
            step.phase = StepPhase.FAILED
            step.error = Failure(code="expression_failed", message=fault, step=path)
        turn.pin(step)
        return step, items

    def _fault(self, items: Any) -> str | None:
        if not isinstance(items, list):
            return f"map: `{self.block.map}` is not a list but {type(items).__name__}"
        if len(items) > self.block.items_max:
            cap, has = self.block.items_max, f"map: `{self.block.map}` has {len(items)} items"
            return f"{has}, its items_max is {cap}: raise `parallel.items_max` of `{self.id}`"
        return None


def compile_parallel(block: Parallel, compiler: Compiler) -> Node:
    """Sections, a map or a vote."""
    inner = block.parallel
    match inner:
        case Sections():
            return SectionsNode(block.id, inner, tuple(compiler.block(child) for child in inner.sections))
        case Map():
            items = compiler.expression(inner.map, f"{block.id}.parallel.map")
            return MapNode(block.id, inner, items, compiler.block(inner.do))
        case Vote():
            return compile_vote(block.id, inner.vote, compiler)

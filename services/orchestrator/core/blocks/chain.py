"""Owns `chain`: blocks in order, each sees the outputs of those before it; the first failure ends it."""

from dataclasses import dataclass

from penstock.contracts.messages import Failure
from penstock.workflow.definition import Chain
from penstock.workflow.expressions import Compiled, ExpressionError
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import Answer, Failed, Frame, Succeeded
from services.orchestrator.core.turn import Turn


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A compiled chain. `output` is None where the last block's output is the chain's."""

    id: str
    children: tuple[Node, ...]
    output: Compiled | None

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins with the first block."""
        return ChainFrame(self, parent, slot, path).go_on(turn, 0)


class ChainFrame(Frame):
    """An open chain; its names are the outputs so far."""

    __slots__ = ("node",)

    def __init__(self, node: ChainNode, parent: Frame, slot: int, path: str) -> None:
        super().__init__(parent, slot, path, {})
        self.node = node

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:
        """The next block, or the end."""
        if isinstance(answer, Failed):
            return answer
        self.names[self.node.children[slot].id] = answer.output
        return self.go_on(turn, slot + 1)

    def go_on(self, turn: Turn, slot: int) -> Answer:
        """Enters blocks from `slot` on until one is not over at once."""
        children = self.node.children
        output = None
        while slot < len(children):
            child = children[slot]
            answer = child.enter(turn, self, slot, f"{self.path}/{child.id}")
            if not isinstance(answer, Succeeded):
                return answer
            self.names[child.id] = answer.output
            slot += 1
        if self.node.output is None:
            return Succeeded(self.names[children[-1].id])
        try:
            output = self.node.output(self.find)
        except ExpressionError as error:
            text = f"output: {error}"
            return Failed(Failure(code="expression_failed", message=text, step=self.path))
        return Succeeded(output)


def compile_chain(block: Chain, compiler: Compiler) -> Node:
    """The chain with its blocks."""
    return ChainNode(
        id=block.id,
        children=tuple(compiler.block(child) for child in block.chain),
        output=None if block.output is None else compiler.value(block.output, f"{block.id}.output"),
    )

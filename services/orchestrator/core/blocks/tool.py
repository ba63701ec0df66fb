"""Owns `tool`: one call of an MCP tool, with the grant for this tool and no other."""

from typing import Any

from penstock.contracts.messages import ToolRequested
from penstock.workflow.expressions import Compiled, Scope
from penstock.workflow.parts import ToolStep
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.leaf import LeafNode, sendable
from services.orchestrator.core.state import Step


class ToolNode(LeafNode):
    """A compiled tool step."""

    __slots__ = ("given", "idempotent", "tool")

    def __init__(self, block: ToolStep, compiler: Compiler) -> None:
        super().__init__(block, "tool", compiler.schema(block.output_schema, f"{block.id}.output_schema"))
        self.tool = block.tool
        self.idempotent = block.idempotent
        self.given: Compiled = compiler.value(block.arguments, f"{block.id}.arguments")

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> ToolRequested:  # noqa: ARG002  # only a model's request depends on it
        """The tool's name, its arguments and the one grant."""
        return self.requested(attribution, self.rendered(scope))

    def rendered(self, scope: Scope) -> Any:
        """The arguments. Raises ExpressionError or TooLargeError."""
        return sendable(self.given, scope, "arguments")

    def requested(self, attribution: dict[str, Any], arguments: Any) -> ToolRequested:
        """The request with these arguments."""
        own = {"tool": self.tool, "arguments": arguments, "grants": [self.tool], "idempotent": self.idempotent}
        return ToolRequested.trusted({**attribution, **own})


def compile_tool(block: ToolStep, compiler: Compiler) -> Node:
    """The tool step."""
    return ToolNode(block, compiler)

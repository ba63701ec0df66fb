"""Owns `task`: one call of a Python function on a worker."""

from typing import Any

from penstock.contracts.messages import TaskRequested
from penstock.workflow.expressions import Compiled, Scope
from penstock.workflow.parts import TaskStep
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.leaf import LeafNode, sendable
from services.orchestrator.core.state import Step


class TaskNode(LeafNode):
    """A compiled task step."""

    __slots__ = ("given", "queue", "task")

    def __init__(self, block: TaskStep, compiler: Compiler) -> None:
        super().__init__(block, "task", compiler.schema(block.output_schema, f"{block.id}.output_schema"))
        self.task = block.task
        self.queue = block.queue
        self.given: Compiled = compiler.value(block.input, f"{block.id}.input")

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> TaskRequested:  # noqa: ARG002  # only a model's request depends on it
        """The function's name and its input."""
        return self.requested(attribution, self.rendered(scope))

    def rendered(self, scope: Scope) -> Any:
        """The input. Raises ExpressionError or TooLargeError."""
        return sendable(self.given, scope, "input")

    def requested(self, attribution: dict[str, Any], value: Any) -> TaskRequested:
        """The request with this input."""
        return TaskRequested.trusted({**attribution, "queue": self.queue, "task": self.task, "input": value})


def compile_task(block: TaskStep, compiler: Compiler) -> Node:
    """The task step."""
    return TaskNode(block, compiler)

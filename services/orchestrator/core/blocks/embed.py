"""Owns `embed`: one embedding on the tier's present route."""

from typing import Any

from penstock.contracts.messages import InferenceRequested
from penstock.contracts.model_calls import INPUTS_MAX
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.lookups import whole_in
from penstock.workflow.parts import EmbedStep
from services.orchestrator.core.blocks.model import CallNode
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.leaf import TooLargeError, evaluated
from services.orchestrator.core.state import Step
from services.orchestrator.core.values import VALUE_BYTES_MAX, text_bytes


class EmbedNode(CallNode):
    """A compiled embed step. Its rows are those of a model call, which it is."""

    __slots__ = ("given",)

    def __init__(self, block: EmbedStep, compiler: Compiler) -> None:
        super().__init__(block, "model", None, compiler.routes(block.embed, block.id))
        self.given: Compiled = compiler.value(block.input, f"{block.id}.input")

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> InferenceRequested:
        """The texts; they travel whole, as prompts do."""
        texts = _texts(whole_in(scope, evaluated(self.given, scope, "input")))
        size_bytes = sum(map(text_bytes, texts))
        if size_bytes > VALUE_BYTES_MAX:
            raise TooLargeError("input", size_bytes)
        route = self.routes[step.route]
        own = {
            "pool": route.pool,
            "model": route.model,
            "operation": "embedding",
            "messages": [],
            "inputs": texts,
            "max_tokens": 1,
        }
        return InferenceRequested.trusted({**attribution, **own})


def _texts(value: Any) -> list[str]:
    """What a template gave, as texts. Raises ExpressionError."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ExpressionError("input: only a text, or a list of texts, can be embedded")
    if not 1 <= len(texts) <= INPUTS_MAX:
        raise ExpressionError(f"input: there are {len(texts)} texts; 1 to {INPUTS_MAX} can be embedded at once")
    return texts


def compile_embed(block: EmbedStep, compiler: Compiler) -> Node:
    """The embed step."""
    return EmbedNode(block, compiler)

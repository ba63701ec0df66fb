"""Owns calls of models on the tier's present route, and `model`: the call that answers in words."""

from abc import abstractmethod
from typing import Any, Final

from penstock.contracts.blobs import reference_of
from penstock.contracts.messages import ChatMessage, Image, InferenceRequested, Sampling
from penstock.contracts.model_calls import CHOICES_MAX, IMAGES_MAX
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.lookups import whole_in
from penstock.workflow.parts import ModelStep
from services.orchestrator.core.budget import worst_case
from services.orchestrator.core.bursting import affordable, bursts, stay
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import LeafFrame
from services.orchestrator.core.leaf import OUTPUT_INVALID, LeafNode, TooLargeError, evaluated
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import VALUE_BYTES_MAX, RefusedError, text_bytes

CHOICES_INVALID: Final = "choices_invalid"


class CallNode(LeafNode):
    """A compiled step that asks a model."""

    __slots__ = ()

    @abstractmethod
    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> InferenceRequested:
        """See LeafNode."""

    def ask(self, turn: Turn, leaf: LeafFrame, attribution: dict[str, Any]) -> InferenceRequested:
        """See LeafNode; a call that bursts and costs more than is left for that stays on its own route."""
        scope, step = leaf.parent.find, leaf.step
        request = self.request(attribution, scope, step)
        if not bursts(step) or affordable(turn, leaf, worst_case(request, self.routes[step.route].price)):
            return request
        stay(turn, leaf)
        return self.request(attribution, scope, step)


class ModelNode(CallNode):
    """A compiled model step."""

    __slots__ = ("_fixed", "_schema", "choices", "examples", "images", "prompt", "system")

    def __init__(self, block: ModelStep, compiler: Compiler) -> None:
        schema = compiler.schema(block.output_schema, f"{block.id}.output_schema")
        super().__init__(block, "model", schema, compiler.routes(block.model, block.id))
        self.prompt: Compiled = compiler.text(block.prompt, f"{block.id}.prompt")
        self.system: Compiled | None = (
            None if block.system is None else compiler.text(block.system, f"{block.id}.system")
        )
        self.images: Compiled | None = (
            None if block.images is None else compiler.expression(block.images, f"{block.id}.images")
        )
        self.choices: Compiled | None = (
            compiler.expression(block.choices, f"{block.id}.choices") if isinstance(block.choices, str) else None
        )
        self.examples: list[tuple[Compiled, Compiled]] = [
            (compiler.text(each.user, f"{block.id}.examples"), compiler.text(each.assistant, f"{block.id}.examples"))
            for each in block.examples
        ]
        self._schema = block.output_schema
        # A request, in the order in which histories list it; what is None here is each request's own.
        self._fixed = {
            "pool": None,
            "model": None,
            "operation": "chat",
            "messages": None,
            "output_schema": None,
            "regex": block.regex,
            "choices": None if isinstance(block.choices, str) else block.choices,
            "max_tokens": block.max_tokens,
            "on_overflow": block.on_overflow,
            "temperature": block.temperature,
            "seed": block.seed,
            "sampling": None if block.sampling is None else Sampling(**block.sampling.model_dump(exclude_none=True)),
            "adapter": block.adapter,
            "stream": block.stream,
            "prompt": None,
            "inputs": None,
            "tools": None,
            "tool_choice": None,
        }

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> InferenceRequested:
        """The conversation and, where the answer before was invalid, what was wrong with it."""
        messages = self.messages(scope)
        if step.repairs and step.error is not None and step.error.code == OUTPUT_INVALID:
            text = f"Your answer before was refused: {step.error.message}. Answer again, with that put right."
            messages.append(ChatMessage(role="user", content=text))
        size_bytes = sum(text_bytes(message.content) for message in messages)
        if size_bytes > VALUE_BYTES_MAX:
            raise TooLargeError("prompt", size_bytes)
        route = self.routes[step.route]
        own: dict[str, Any] = {
            "pool": route.pool,
            "model": route.model,
            "messages": messages,
            "output_schema": self.guide(scope),
        }
        if self.choices is not None:
            own["choices"] = _choices(self.choices, scope)
        return InferenceRequested.trusted({**attribution, **self._fixed, **own})

    def messages(self, scope: Scope) -> list[ChatMessage]:
        """What the model is asked. Raises ExpressionError."""
        messages = []
        if self.system is not None:
            messages.append(_message("system", evaluated(self.system, scope, "system")))
        for user, assistant in self.examples:
            messages.append(_message("user", evaluated(user, scope, "examples")))
            messages.append(_message("assistant", evaluated(assistant, scope, "examples")))
        prompt, images = evaluated(self.prompt, scope, "prompt"), None
        if self.images is not None:
            images = _images(evaluated(self.images, scope, "images"))
        messages.append(_message("user", prompt, images))
        return messages

    def guide(self, scope: Scope) -> dict[str, Any] | None:  # noqa: ARG002  # a loop's depends on it
        """The schema that the engine guides its answer by."""
        return self._schema


def _message(role: str, content: str, images: list[Image] | None = None) -> ChatMessage:
    said = {"role": role, "content": content, "images": images, "tool_calls": None, "tool_call_id": None}
    return ChatMessage.trusted(said)


def _choices(choices: Compiled, scope: Scope) -> list[str]:
    """What an expression gave, each text once, in its order. Raises ExpressionError or RefusedError."""
    given = whole_in(scope, evaluated(choices, scope, "choices"))
    if not isinstance(given, list) or not all(isinstance(text, str) and text for text in given):
        raise RefusedError(CHOICES_INVALID, "choices: not a list of texts, none of them empty")
    texts = list(dict.fromkeys(given))
    if not 1 <= len(texts) <= CHOICES_MAX:
        text = f"choices: there are {len(texts)} different texts; an answer can be one of 1 to {CHOICES_MAX}"
        raise RefusedError(CHOICES_INVALID, text)
    size_bytes = sum(map(text_bytes, texts))
    if size_bytes > VALUE_BYTES_MAX:
        raise TooLargeError("choices", size_bytes)
    return texts


def _images(value: Any) -> list[Image] | None:
    """What an expression gave, as images; nothing where it gave null or an empty list. Raises ExpressionError."""
    given = value if isinstance(value, list) else [] if value is None else [value]
    if len(given) > IMAGES_MAX:
        raise ExpressionError(f"images: there are {len(given)}, and at most {IMAGES_MAX} are shown")
    images = []
    for each in given:
        reference = reference_of(each)
        if reference is None or not reference.media_type.startswith("image/"):
            raise ExpressionError("images: not a blob reference of an image: {$blob, bytes, media_type: image/…}")
        blob = f"sha256:{reference.digest}"
        images.append(Image(blob=blob, bytes=reference.size_bytes, media_type=reference.media_type))
    return images or None


def compile_model(block: ModelStep, compiler: Compiler) -> Node:
    """The model step."""
    return ModelNode(block, compiler)

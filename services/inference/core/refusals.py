"""Owns why a request never reaches an engine: what is wrong with it, or more than the model takes, by name."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from penstock.contracts.messages import InferenceRequested, NextMove, ToolSignature, WorkError
from penstock.contracts.model_calls import IMAGES_MAX
from penstock.contracts.regexes import RegexRefusedError, check_regex
from services.inference.core.images import IMAGES_BYTES_MAX, images_of
from services.inference.core.limits import ModelLimits
from services.inference.core.structured import SchemaRefusedError, check_schema

TOOL_CHOICES: Final = frozenset({"auto", "none", "required"})
ESTIMATE_FACTOR: Final = 4
"""An estimated prompt is refused only where it is so many times too long: down to a token each sixteen characters, it
is too long by any tokenizer; what is nearer the engine judges."""


class Accepted(NamedTuple):
    """What the engine is asked. `max_tokens_used` is what `max_tokens` was clamped to, where it was."""

    request: InferenceRequested
    prompt_tokens: int
    max_tokens_used: int | None = None


def examined(
    request: InferenceRequested, limits: ModelLimits, count: Callable[[InferenceRequested], int]
) -> Accepted | WorkError:
    """The request as the engine gets it, or why it does not. `count` gives the prompt's tokens."""
    fault = _unsupported(request, limits) or _unusable(request)
    if fault is not None:
        return fault
    return _fitted(request, limits, count)


def unknown_model(model: str, pool: str, known: frozenset[str]) -> WorkError:
    """No engine here serves the model."""
    text = f"pool {pool!r} has no model {model!r}; it has {', '.join(sorted(known)) or 'none'}"
    return _refused("unknown_model", text, NextMove.RETRY_ELSEWHERE)


def image_invalid(fault: str) -> WorkError:
    """An image is none, or cannot be had."""
    return _refused("image_invalid", fault)


def _unsupported(request: InferenceRequested, limits: ModelLimits) -> WorkError | None:
    """What this model does not take; another one may."""
    elsewhere = NextMove.RETRY_ELSEWHERE
    images = images_of(request)
    if len(images) > IMAGES_MAX or sum(image.bytes for image in images) > IMAGES_BYTES_MAX:
        return image_invalid(f"{len(images)} images; the limit is {IMAGES_MAX}, and {IMAGES_BYTES_MAX} bytes together")
    if images and limits.images is False:
        return _refused("image_unsupported", f"{request.model!r} takes no images", elsewhere)
    if request.operation == "embedding" and limits.embeddings is False:
        return _refused("embeddings_unsupported", f"{request.model!r} gives no embeddings", elsewhere)
    if request.tools and limits.tools is False:
        return _refused("tools_unsupported", f"{request.model!r} calls no tools", elsewhere)
    if request.adapter is not None and limits.adapters is not None and request.adapter not in limits.adapters:
        known = ", ".join(sorted(limits.adapters)) or "none"
        text = f"{request.model!r} has no adapter {request.adapter!r}; it has {known}"
        return _refused("unknown_adapter", text, elsewhere)
    return None


def _unusable(request: InferenceRequested) -> WorkError | None:
    """What no engine could do."""
    try:
        if request.output_schema is not None:
            check_schema(request.output_schema)
    except SchemaRefusedError as error:
        return _refused("schema_invalid", f"output_schema: {error}")
    try:
        if request.regex is not None:
            check_regex(request.regex)
    except RegexRefusedError as error:
        return _refused("regex_invalid", str(error))
    return _unusable_tools(request.tools, request.tool_choice) if request.tools else None


def _unusable_tools(tools: Sequence[ToolSignature], choice: str | None) -> WorkError | None:
    names = [tool.name for tool in tools]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        return _refused("tools_invalid", f"two tools are called {twice!r}")
    if choice is not None and choice not in {*TOOL_CHOICES, *names}:
        text = f"`tool_choice` is {choice!r}, and no tool is called so; there is {', '.join(names)}"
        return _refused("tools_invalid", text)
    for tool in tools:
        try:
            check_schema(tool.parameters)
        except SchemaRefusedError as error:
            return _refused("tool_schema_invalid", f"tool {tool.name!r}: {error}")
        if tool.parameters.get("type", "object") != "object":
            text = f"tool {tool.name!r}: its parameters are {tool.parameters['type']!r}; arguments are an object"
            return _refused("tool_schema_invalid", text)
    return None


def _fitted(
    request: InferenceRequested, limits: ModelLimits, count: Callable[[InferenceRequested], int]
) -> Accepted | WorkError:
    """Prompt and answer within the model's context. Nothing of a prompt is ever cut."""
    context, prompt = limits.context_tokens_max, count(request)
    if context is None:
        return Accepted(request, prompt)
    about = "" if limits.tokens_exact else "about "
    prompt_max = context * (1 if limits.tokens_exact else ESTIMATE_FACTOR)
    longest = prompt
    if prompt >= prompt_max and request.inputs is not None and len(request.inputs) > 1:  # each has all of the context
        longest = max(count(request.model_copy(update={"inputs": [text]})) for text in request.inputs)
    if longest >= prompt_max:
        text = f"the prompt has {about}{longest} tokens, and {request.model!r} holds {context}"
        return _refused("context_overflow", text, NextMove.RETRY_ELSEWHERE)
    if request.operation == "embedding":
        return Accepted(request, prompt)
    room = max(1, context - prompt) if limits.tokens_exact else context
    if request.max_tokens <= room:
        return Accepted(request, prompt)
    if request.on_overflow == "clamp" and limits.tokens_exact:
        return Accepted(request.model_copy(update={"max_tokens": room}), prompt, room)
    if request.on_overflow == "clamp":
        return Accepted(request, prompt)  # who can count the prompt clamps
    text = f"max_tokens={request.max_tokens} and a prompt of {about}{prompt} tokens; {request.model!r} holds {context}"
    return _refused("max_tokens_beyond_room", text, NextMove.RETRY_ELSEWHERE)


def _refused(code: str, message: str, next: NextMove = NextMove.GIVE_UP) -> WorkError:
    return WorkError(code=code, message=message[:2000], next=next)

"""Owns the way from a request to what vLLM is given: the prompt's tokens, the bounds of the answer, its sampling."""

import base64
from collections.abc import Mapping
from typing import Any, Final

from penstock.contracts.messages import ChatMessage, InferenceRequested, Lane, NextMove, WorkError
from services.inference.engines.protocol import EngineFailedError, LoadedImage
from services.inference.engines.vllm_library import Built, Sampled, chat_input, tokens_input

PRIORITIES: Final = {Lane.INTERACTIVE: 0, Lane.STANDARD: 1, Lane.BATCH: 2}
"""For vLLM the lower is the more urgent."""


def refusal(code: str, message: str, move: NextMove) -> EngineFailedError:
    """What never reaches the engine."""
    return EngineFailedError(WorkError(code=code, message=message[:2000], next=move))


def token_ids(built: Built, request: InferenceRequested) -> list[int]:
    """The prompt as the model reads it, images left out. Raises EngineFailedError."""
    try:
        if request.prompt is not None:
            ids = built.tokenizer.encode(request.prompt)
        else:
            said = built.tokenizer.apply_chat_template(
                [_said(message) for message in request.messages],
                tools=shown_tools(request),
                add_generation_prompt=True,
                tokenize=built.encode is None,
                return_dict=False,
            )
            ids = said if built.encode is None else built.encode(said)
    except Exception as error:  # templates are the model's code and raise whatever they like
        raise refusal("bad_request", f"the model's chat template refuses this: {error}", NextMove.GIVE_UP) from error
    return list(ids)


def shown_tools(request: InferenceRequested) -> list[dict[str, Any]] | None:
    """The tools in the form that chat templates know; none where none may be called."""
    if request.tools is None or request.tool_choice == "none":
        return None
    return [
        {"type": "function", "function": tool.model_dump(include={"name", "description", "parameters"})}
        for tool in request.tools
    ]


def _said(message: ChatMessage) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    return said


def adapter(built: Built, request: InferenceRequested) -> Any:
    """vLLM's word for the adapter that the request names. Raises EngineFailedError where there is none."""
    if request.adapter is None:
        return None
    found = built.adapters.get(request.adapter)
    if found is None:
        known = ", ".join(sorted(built.adapters)) or "none"
        message = f"no adapter {request.adapter!r} here; there is {known}"
        raise refusal("unknown_adapter", message, NextMove.RETRY_ELSEWHERE)
    return found


def priority(built: Built, request: InferenceRequested) -> int:
    """Nothing but 0 where the engine serves in the order of arrival."""
    return PRIORITIES[request.priority] if built.by_priority else 0


def room(built: Built, prompt_tokens: int, request: InferenceRequested) -> int:
    """How many tokens the answer may have. Raises EngineFailedError: nothing is cut in silence."""
    context = built.context_tokens_max
    left = context - prompt_tokens
    if left < 1:
        message = f"the prompt has {prompt_tokens} tokens; the model holds {context}, an answer included"
        raise refusal("context_overflow", message, NextMove.RETRY_ELSEWHERE)
    if request.max_tokens <= left:
        return request.max_tokens
    if request.on_overflow == "clamp":
        return left
    message = f"{prompt_tokens} tokens of prompt leave room for {left} of {context}, not for {request.max_tokens}"
    raise refusal("max_tokens_beyond_room", message, NextMove.RETRY_ELSEWHERE)


async def prompt(built: Built, request: InferenceRequested, ids: list[int] | None) -> tuple[Any, int]:
    """What vLLM is given and its length in tokens; `ids` where they were counted before. Raises EngineFailedError."""
    if not any(message.images for message in request.messages):
        ids = token_ids(built, request) if ids is None else ids
        return tokens_input(ids, request.tenant), len(ids)
    if not built.images:
        raise refusal("image_unsupported", f"{request.model} takes no images", NextMove.RETRY_ELSEWHERE)
    messages = [{**_said(message), "content": _parts(message)} for message in request.messages]
    try:
        rendered = await chat_input(built, messages, shown_tools(request), request.tenant)
    except Exception as error:  # whatever the model's processor thinks of it
        raise refusal("image_invalid", f"the model cannot take this: {error}", NextMove.GIVE_UP) from error
    return rendered, len(rendered["prompt_token_ids"])


def _parts(message: ChatMessage) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for image in message.images or []:
        if not isinstance(image, LoadedImage):
            raise refusal("image_invalid", f"nobody has loaded {image.blob}", NextMove.GIVE_UP)
        url = f"data:{image.media_type};base64,{base64.b64encode(image.content).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [*parts, {"type": "text", "text": message.content}]


def sampled(request: InferenceRequested, max_tokens: int, bound: Mapping[str, Any] | None, *, stream: bool) -> Sampled:
    """How the answer is drawn."""
    values: dict[str, Any] = {"max_tokens": max_tokens, "temperature": request.temperature}
    if request.seed is not None:
        values["seed"] = request.seed
    if request.sampling is not None:
        values |= request.sampling.model_dump(exclude_none=True)
    return Sampled(values, bound, stream)


def bound(request: InferenceRequested) -> Mapping[str, Any] | None:
    """What holds the answer to a form, tools aside."""
    if request.output_schema is not None:
        return {"json": request.output_schema}
    if request.regex is not None:
        return {"regex": request.regex}
    if request.choices is not None:
        return {"choice": request.choices}
    return None

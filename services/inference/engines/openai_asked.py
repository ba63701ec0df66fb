"""Owns what an OpenAI-compatible endpoint is asked: a request as the API's body, in the dialect that is spoken there.

The dialects differ in what binds an answer beside a JSON Schema, which all take as `response_format`:

            choices                       regex
vllm        structured_outputs.choice     structured_outputs.regex
llama.cpp   grammar (GBNF)                a schema of an object with one text that has a pattern, taken out again
generic     a schema of an object with one text that is one of them, taken out again; a pattern in the same way

Whatever binds it, an answer is looked at again; an endpoint that ignores a field is found out there.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from penstock.contracts.messages import ChatMessage, InferenceRequested, ToolCall
from services.inference.engines.protocol import LoadedImage

Dialect = Literal["generic", "vllm", "llama.cpp"]
WRAP: Final = "answer"
"""The field that a bound text is wrapped in, where an endpoint only knows schemas."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is known of an endpoint beside its address. None where only the endpoint knows."""

    dialect: Dialect | None = None
    """None: as it says of itself when it is probed, else `generic`."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    context_tokens_max: int | None = None
    images: bool | None = None
    embeddings: bool | None = None
    tools: bool | None = None
    adapters: frozenset[str] | None = None
    max_tokens_field: str = "max_tokens"
    """What the endpoint calls it: `max_completion_tokens` for some managed models."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """Added to every body as it is."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: the path below the version, the body, whether the text comes wrapped in an object.

    Not `bounded`, the answer may take all the room that there is.
    """

    path: str
    body: dict[str, Any]
    wrapped: bool = False
    bounded: bool = True


def asked(request: InferenceRequested, endpoint: Endpoint, dialect: Dialect, *, bounded: bool = True) -> Asked:
    """The call for a request."""
    model = request.model if request.adapter is None else request.adapter
    if request.operation == "embedding":
        body = {"model": model, "input": request.inputs, "encoding_format": "float", **endpoint.extra_body}
        return Asked("embeddings", body)
    body = {"model": model, "temperature": request.temperature}
    if bounded:
        body[endpoint.max_tokens_field] = request.max_tokens
    if request.seed is not None:
        body["seed"] = request.seed
    if dialect == "vllm":
        body["cache_salt"] = request.tenant  # tenants never share a prefix
    body |= _sampling(request)
    binding, wrapped = _binding(request, dialect)
    body |= binding | {"stream": True, "stream_options": {"include_usage": True}} | endpoint.extra_body
    if request.operation == "completion":
        return Asked("completions", {**body, "prompt": request.prompt}, wrapped, bounded)
    messages = {"messages": list(map(_message, request.messages))}
    return Asked("chat/completions", body | messages | _tools(request), wrapped, bounded)


def unwrapped(text: str) -> str:
    """The text in the object that it was bound by; as it is where it is none, for the second look to refuse."""
    try:
        said = orjson.loads(text)[WRAP]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return text
    return said if isinstance(said, str) else text


def _message(message: ChatMessage) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        images = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images]
        made["content"] = [*images, {"type": "text", "text": message.content}]
    if message.tool_calls:
        made["tool_calls"] = list(map(_call, message.tool_calls))
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    return made


def _data_url(image: Any) -> str:
    if not isinstance(image, LoadedImage):
        raise TypeError(f"image {image.blob} has not been loaded")
    return f"data:{image.media_type};base64,{b64encode(image.content).decode()}"


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def _tools(request: InferenceRequested) -> dict[str, Any]:
    if not request.tools:
        return {}
    made: dict[str, Any] = {"tools": []}
    for tool in request.tools:
        function = {"name": tool.name, "description": tool.description}
        function |= {"parameters": {"type": "object", **tool.parameters}}  # type: ignore[dict-item]  # JSON
        made["tools"].append({"type": "function", "function": function})
    choice = request.tool_choice
    if choice in ("auto", "none", "required"):
        made["tool_choice"] = choice
    elif choice is not None:
        made["tool_choice"] = {"type": "function", "function": {"name": choice}}
    return made


def _sampling(request: InferenceRequested) -> dict[str, Any]:
    if request.sampling is None:
        return {}
    body = request.sampling.model_dump(exclude_none=True)
    logprobs = body.pop("logprobs", None)
    if logprobs is not None and request.operation == "completion":
        body["logprobs"] = logprobs
    elif logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": logprobs}
    return body


def _binding(request: InferenceRequested, dialect: Dialect) -> tuple[dict[str, Any], bool]:
    """What binds the answer, and whether it comes wrapped."""
    if request.output_schema is not None:
        return _schema(request.output_schema), False
    if request.choices is None and request.regex is None:
        return {}, False
    if dialect == "vllm":
        bound = {"regex": request.regex} if request.choices is None else {"choice": request.choices}
        return {"structured_outputs": bound}, False
    if request.choices is None:
        return _schema(_wrapping({"type": "string", "pattern": f"^({request.regex})$"})), True
    if dialect == "llama.cpp":
        return {"grammar": "root ::= " + " | ".join(map(_gbnf, request.choices))}, False
    return _schema(_wrapping({"type": "string", "enum": request.choices})), True


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "output", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _wrapping(text: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {WRAP: text}, "required": [WRAP], "additionalProperties": False}


_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _gbnf(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'

"""Owns tool calls of a vLLM engine: demanded ones by guiding the model to them, all others by vLLM's own parsers."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from penstock.contracts.messages import InferenceRequested, NextMove, ToolCall
from services.inference.engines.vllm_library import tool_request
from services.inference.engines.vllm_prompts import refusal, shown_tools

FREE: Final = frozenset({"auto", "none"})


class ToolCalls:
    """How one request's tool calls are asked for and read."""

    def __init__(self, request: InferenceRequested, parser: Callable[[Any, Any], Any] | None) -> None:
        """Raises EngineFailedError where the model cannot be asked so."""
        self._request: Final = request
        self._parser: Final = parser
        self._choice: Final = "none" if request.tools is None else (request.tool_choice or "auto")
        if self._choice == "auto" and parser is None:
            message = "this engine has no tool parser: `tool_choice` must be `required`, a tool's name, or `none`"
            raise refusal("tools_unsupported", message, NextMove.RETRY_ELSEWHERE)
        if self._choice not in FREE and self._choice != "required" and self._choice not in self._named:
            raise refusal("bad_request", f"`tool_choice` names no tool: {self._choice!r}", NextMove.GIVE_UP)

    @property
    def wanted(self) -> bool:
        """Whether the answer may be calls."""
        return self._choice != "none"

    @property
    def parsed(self) -> bool:
        """Whether calls are found in the text, by marks that are special tokens for some models."""
        return self._choice == "auto"

    @property
    def _named(self) -> Mapping[str, dict[str, Any]]:
        return {tool.name: tool.parameters for tool in self._request.tools or []}

    def bound(self) -> Mapping[str, Any] | None:
        """What holds the answer to a tool call; None where it is free."""
        if self._choice in FREE:
            return None
        if self._choice != "required":
            return {"json": self._named[self._choice]}
        calls = [
            {
                "type": "object",
                "properties": {"name": {"enum": [name]}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for name, parameters in self._named.items()
        ]
        return {"json": {"type": "array", "minItems": 1, "items": {"anyOf": calls}}}

    def read(self, text: str, tokenizer: Any) -> tuple[str, tuple[ToolCall, ...]]:
        """The text that is left, and the calls. Raises EngineFailedError where arguments are none."""
        if self._choice == "none":
            return text, ()
        if self._choice == "auto":
            return self._parsed(text, tokenizer)
        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise _broken(f"not JSON: {error}") from error
        if self._choice != "required":
            said = [{"name": self._choice, "parameters": said}]
        return "", tuple(self._call(index, call["name"], call["parameters"]) for index, call in enumerate(said))

    def _parsed(self, text: str, tokenizer: Any) -> tuple[str, tuple[ToolCall, ...]]:
        assert self._parser is not None
        asked = tool_request(shown_tools(self._request) or [])
        found = self._parser(tokenizer, asked.tools).extract_tool_calls(text, asked)
        if not found.tools_called:
            return text, ()
        calls = []
        for index, call in enumerate(found.tool_calls):
            try:
                arguments = orjson.loads(call.function.arguments)
            except orjson.JSONDecodeError as error:
                raise _broken(f"the arguments of {call.function.name!r} are no JSON: {error}") from error
            calls.append(self._call(index, call.function.name, arguments))
        return found.content or "", tuple(calls)

    def _call(self, index: int, name: str, arguments: Any) -> ToolCall:
        if name not in self._named:
            raise _broken(f"there is no tool {name!r}; there is {', '.join(self._named)}")
        if not isinstance(arguments, dict):
            raise _broken(f"the arguments of {name!r} are no object")
        # Derived, so that the same answer gives the same ids.
        return ToolCall(id=f"call_{self._request.request_id.hex[:16]}_{index}", name=name, arguments=arguments)


def _broken(message: str) -> Exception:
    return refusal("tool_arguments_invalid", message, NextMove.REPAIR_OUTPUT)

"""Owns an answer of an OpenAI-compatible endpoint while it streams in: text, tool calls, log probabilities, tokens."""

import math
from collections.abc import Callable
from typing import Any, Final

import orjson
from pydantic import ValidationError

from penstock.contracts.messages import InferenceRequested, NextMove, TokenLogprob, TokenUsage, ToolCall, WorkError
from services.inference.core.buckets import estimated_prompt_tokens, exclusive
from services.inference.core.failures import Refusal, beyond_room, disconnected, meaning
from services.inference.engines.openai_asked import Asked, unwrapped
from services.inference.engines.openai_refusal import refusal
from services.inference.engines.protocol import Delta, EngineFailedError, Generation, OnDelta

ANSWER_CHARACTERS_MAX: Final = 4 * 1024 * 1024
CALLS_MAX: Final = 128
LOGPROB_MIN: Final = -1e9
"""Stands for minus infinity, which JSON does not have."""

_REASONS: Final = {
    "function_call": "tool_calls",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
}
"""Other words for the same, from endpoints that are compatible but for them."""


class Answer:
    """One answer. `clock` in seconds."""

    def __init__(
        self, request: InferenceRequested, asked: Asked, clock: Callable[[], float], on_delta: OnDelta | None
    ) -> None:
        self._request: Final = request
        self.asked = asked
        """As it was sent last."""
        self._clock: Final = clock
        self._on_delta: Final = on_delta
        self._began: Final = clock()
        self._parts: Final[list[str]] = []
        self._calls: Final[dict[int, dict[str, str]]] = {}
        self._logprobs: Final[list[TokenLogprob]] = []
        self._vectors: tuple[tuple[float, ...], ...] | None = None
        self._characters = 0
        self._chunks = 0
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None
        self.first_token_ms: float | None = None
        self.sent = False
        """Whether the endpoint may have seen the request."""

    @property
    def request_id(self) -> str:
        """What the call is known by in logs, ours and the endpoint's."""
        return str(self._request.request_id)

    @property
    def tokens(self) -> int | None:
        """All tokens that the endpoint has counted, prompt and answer; None while it has not."""
        return None if self._usage is None else sum(self._usage.model_dump().values())

    def take(self, data: str) -> None:
        """One event of the stream. Raises EngineFailedError for what is none, or says that the call failed."""
        try:
            chunk = orjson.loads(data)
            fault = chunk.get("error", chunk if "choices" not in chunk else None)
            if fault is not None:
                raise self.failed(meaning(refusal(200, fault, None), structured=self.structured))
            for choice in chunk["choices"]:
                self._take_choice(choice)
            if chunk.get("usage"):
                self._usage = _usage(chunk["usage"])
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise self.failed(disconnected(f"the stream is not a chat completion: {error!r}")) from error

    def take_embeddings(self, content: bytes) -> None:
        """The whole answer of an embedding. Raises EngineFailedError for what is none."""
        try:
            body = orjson.loads(content)
            listed = sorted(body["data"], key=lambda each: int(each["index"]))
            self._vectors = tuple(tuple(map(float, each["embedding"])) for each in listed)
            if body.get("usage"):
                self._usage = _usage(body["usage"])
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise self.failed(disconnected(f"the answer is no list of embeddings: {error!r}")) from error
        self._finish_reason = "stop"
        self._first_token()

    def _take_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        text = choice.get("text") if "text" in choice else delta.get("content")
        calls = delta.get("tool_calls") or ()
        if text or calls or delta.get("reasoning_content") or delta.get("reasoning"):
            self._first_token()
            self._chunks += 1
        for call in calls:
            self._take_call(call)
        if choice.get("logprobs"):
            self._logprobs.extend(_logprobs(choice["logprobs"]))
        if text and self._characters < ANSWER_CHARACTERS_MAX:
            self._parts.append(text)
            self._characters += len(text)
            if self._on_delta is not None and not self.asked.wrapped:
                self._on_delta(Delta(text, self._chunks))
        reason = choice.get("finish_reason")
        self._finish_reason = self._finish_reason if reason is None else _REASONS.get(reason, reason)

    def _take_call(self, delta: dict[str, Any]) -> None:
        """A piece of a call: the first has its id and name, all have a part of its arguments."""
        index = int(delta.get("index", len(self._calls)))
        if index not in self._calls and len(self._calls) >= CALLS_MAX:
            raise ValueError(f"more than {CALLS_MAX} tool calls")
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = delta.get("function") or {}
        call["id"] = call["id"] or delta.get("id") or ""
        call["name"] = call["name"] or function.get("name") or ""
        part = function.get("arguments") or ""
        call["arguments"] += part if isinstance(part, str) else orjson.dumps(part).decode()
        self._characters += len(part)
        if self._characters > ANSWER_CHARACTERS_MAX:
            raise ValueError(f"more than {ANSWER_CHARACTERS_MAX} characters")

    def _first_token(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = (self._clock() - self._began) * 1000

    @property
    def structured(self) -> bool:
        """Whether the endpoint was asked to bind the answer."""
        request = self._request
        return request.output_schema is not None or request.regex is not None or request.choices is not None

    def spent(self) -> TokenUsage:
        """What a call that is stopped now has used: as the engine said, else one token per chunk that came."""
        return self._usage or (self._estimated() if self.sent else TokenUsage())

    def failed(self, error: WorkError) -> EngineFailedError:
        """A failure with what had been spent; where the engine has not said, one token per chunk that came."""
        usage = self._usage
        if usage is None and self._chunks:
            usage = self._estimated()
        return EngineFailedError(error, usage, self.first_token_ms)

    def generation(self) -> Generation:
        """The whole answer. Raises EngineFailedError where it is none, or was cut for another reason than asked."""
        reason = self._finish_reason
        if reason is None:
            raise self.failed(disconnected("the stream ended without a finish reason"))
        if reason in ("abort", "error"):
            raise self.failed(disconnected(f"the endpoint ended the answer: {reason}"))
        if reason == "content_filter":
            filtered = Refusal(200, frozenset({"content_filter"}), "the endpoint's content filter stopped the answer")
            raise self.failed(meaning(filtered, structured=False))
        max_tokens_used = self._clamped(reason)
        calls = self._tool_calls()
        text = "".join(self._parts)
        if self.asked.wrapped:
            text = unwrapped(text)
            if text and self._on_delta is not None:
                self._on_delta(Delta(text, self._chunks))
        self._first_token()
        return Generation(
            text=text,
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            usage=self._usage or self._estimated(),
            first_token_ms=self.first_token_ms or 0.0,
            tool_calls=calls,
            logprobs=tuple(self._logprobs) if self._logprobs else None,
            embeddings=self._vectors,
            max_tokens_used=max_tokens_used,
        )

    def _clamped(self, reason: str) -> int | None:
        """What the answer was cut to, where that is less than asked: some endpoints do it at the model's end."""
        if reason != "length" or self._usage is None:
            return None
        output = self._usage.output + self._usage.reasoning
        if output >= self._request.max_tokens:
            return None
        if self._request.on_overflow == "clamp":
            return output
        raise self.failed(
            beyond_room(f"the model's room ended {output} tokens into max_tokens={self._request.max_tokens}")
        )

    def _tool_calls(self) -> tuple[ToolCall, ...]:
        made = []
        for index, call in sorted(self._calls.items()):
            try:
                arguments = orjson.loads(call["arguments"] or "{}")
                made.append(ToolCall(id=call["id"] or f"call-{index}", name=call["name"], arguments=arguments))
            except (orjson.JSONDecodeError, ValidationError) as error:
                text = f"the call of {call['name'][:64]!r} is none: its name, or its arguments are not a JSON object"
                wrong = WorkError(code="tool_arguments_invalid", message=text, next=NextMove.REPAIR_OUTPUT)
                raise self.failed(wrong) from error
        return tuple(made)

    def _estimated(self) -> TokenUsage:
        return TokenUsage(input=estimated_prompt_tokens(self._request), output=self._chunks)


def _usage(usage: dict[str, Any]) -> TokenUsage:
    prompt_details = usage.get("prompt_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or {}
    return exclusive(
        usage.get("prompt_tokens") or 0,
        prompt_details.get("cached_tokens") or 0,
        usage.get("completion_tokens") or 0,
        completion_details.get("reasoning_tokens") or 0,
    )


def _logprobs(said: dict[str, Any]) -> list[TokenLogprob]:
    """Chat's form (`content`), or that of completions (three lists side by side)."""
    if said.get("content"):
        return [
            _logprob(
                each["token"], each["logprob"], {top["token"]: top["logprob"] for top in each.get("top_logprobs") or ()}
            )
            for each in said["content"]
        ]
    tokens, numbers = said.get("tokens") or (), said.get("token_logprobs") or ()
    tops = said.get("top_logprobs") or [None] * len(tokens)
    return [_logprob(token, number, top or {}) for token, number, top in zip(tokens, numbers, tops, strict=False)]


def _logprob(token: str, number: float | None, top: dict[str, float]) -> TokenLogprob:
    finite = {name: _finite(value) for name, value in top.items()}
    return TokenLogprob(token=token, logprob=_finite(number), top=finite or None)


def _finite(number: float | None) -> float:
    return max(LOGPROB_MIN, float(number)) if number is not None and math.isfinite(number) else LOGPROB_MIN

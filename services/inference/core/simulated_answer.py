"""Owns what the engine that is none says: text, JSON, calls of tools and vectors from the request's id, and marked."""

from hashlib import sha256
from math import sqrt
from typing import Final, NamedTuple

import orjson

from penstock.contracts.messages import InferenceRequested, NextMove, TokenLogprob, ToolCall, WorkError
from services.inference.core.buckets import estimated_tokens
from services.inference.core.regex_sample import matching
from services.inference.core.sample import MARK, CannotSampleError, Dice, prose, value

TOKEN_CHARACTERS: Final = 4
DIMENSIONS: Final = 64
_CANNOT: Final = (CannotSampleError, AttributeError, IndexError, KeyError, TypeError, ValueError)


class Said(NamedTuple):
    """A whole answer, known before the first token of it is given."""

    text: str
    finish_reason: str
    output: int
    """Tokens."""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    embeddings: tuple[tuple[float, ...], ...] | None = None


def said(request: InferenceRequested) -> Said | WorkError:
    """The answer to a request: the same for the same request, whatever else goes on."""
    if request.operation == "embedding":
        return Said("", "stop", 0, embeddings=tuple(map(_vector, request.inputs or ())))
    dice = Dice(request.request_id.bytes)
    try:
        calls = _calls(request, dice)
        text = "" if calls else _text(request, dice)
    except _CANNOT as error:
        message = f"the simulated engine cannot do what binds this answer: {error}"
        return WorkError(code="schema_invalid", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)
    if calls:
        return Said("", "tool_calls", sum(estimated_tokens(str(call.arguments)) + 8 for call in calls), calls)
    text, finish_reason = _cut(text, request)
    return Said(text, finish_reason, max(1, estimated_tokens(text)), logprobs=_logprobs(text, request, dice))


def _text(request: InferenceRequested, dice: Dice) -> str:
    if request.output_schema is not None:
        return orjson.dumps(value(request.output_schema, dice)).decode()
    if request.choices is not None:
        return request.choices[dice.below(len(request.choices))]
    if request.regex is not None:
        return matching(request.regex, dice)
    quarter = max(1, request.max_tokens // 4)
    return prose(dice, TOKEN_CHARACTERS * (quarter + dice.below(request.max_tokens)))


def _calls(request: InferenceRequested, dice: Dice) -> tuple[ToolCall, ...]:
    """One call where one is wanted; without a word on it, where no tool has answered yet."""
    choice = request.tool_choice or "auto"
    answered = bool(request.messages) and request.messages[-1].role == "tool"
    if not request.tools or choice == "none" or (choice == "auto" and answered):
        return ()
    named = [tool for tool in request.tools if tool.name == choice] or request.tools
    tool = named[dice.below(len(named))]
    arguments = value({"type": "object", **tool.parameters}, dice)
    return (ToolCall(id=f"simulated-{dice.below(10**9)}", name=tool.name, arguments=arguments),)


def _cut(text: str, request: InferenceRequested) -> tuple[str, str]:
    """The text up to where it would have ended, and why."""
    for stop in (request.sampling.stop if request.sampling else None) or ():
        text = text.split(stop, 1)[0]
    bound = request.choices is not None or request.regex is not None
    least = 0 if bound or request.output_schema is not None else len(MARK) + TOKEN_CHARACTERS
    characters_max = max(least, request.max_tokens * TOKEN_CHARACTERS)
    return (text, "stop") if len(text) <= characters_max else (text[:characters_max], "length")


def _logprobs(text: str, request: InferenceRequested, dice: Dice) -> tuple[TokenLogprob, ...] | None:
    count = None if request.sampling is None else request.sampling.logprobs
    if count is None:
        return None
    made = []
    for start in range(0, len(text), TOKEN_CHARACTERS):
        token = text[start : start + TOKEN_CHARACTERS]
        logprob = -dice.below(1000) / 1000
        others = {f"{MARK}{place}": logprob - place for place in range(1, count)}
        made.append(TokenLogprob(token=token, logprob=logprob, top={token: logprob, **others} if count else None))
    return tuple(made)


def _vector(text: str) -> tuple[float, ...]:
    """Of length one, and the same for the same text."""
    dice = Dice(sha256(text.encode(errors="replace")).digest())
    numbers = [dice.below(2001) / 1000 - 1 for _ in range(DIMENSIONS)]
    length = sqrt(sum(number * number for number in numbers)) or 1.0
    return tuple(number / length for number in numbers)

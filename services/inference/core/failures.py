"""Owns what an engine's refusal means: a stable code and the next move, from the status and the error it names."""

import re
from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import NextMove, WorkError

RETRY_AFTER_MS_MAX: Final = 600_000
"""An endpoint that asks for more is as good as away."""

CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
CONTEXT_PHRASES: Final = ("maximum context length", "context size", "max_model_len")
SCHEMA_PHRASES: Final = ("schema", "grammar", "response_format", "guided", "structured", "regex", "pattern")
IMAGE_PHRASES: Final = ("image_url", "image input", "multimodal", "image support")
QUOTA_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
QUOTA_PHRASES: Final = ("exceeded your current quota", "billing")
OVERLOADED_CODES: Final = frozenset({"overloaded_error"})
FILTER_CODES: Final = frozenset({"content_filter", "content_policy_violation"})

_ROOM: Final = re.compile(r"maximum context length is (\d+)")
_PROMPT: Final = re.compile(r"(\d+) (?:in the (?:messages|prompt)|input tokens|of text input)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An engine's answer that is no generation. `names` are its error's code, type and parameter."""

    status: int
    names: frozenset[str]
    message: str
    retry_after_ms: int | None = None


def meaning(refusal: Refusal, *, structured: bool) -> WorkError:
    """The failure as the orchestrator needs it. The order is from the specific to the general."""
    code, next_move = _code(refusal, structured=structured)
    retry_after_ms = refusal.retry_after_ms if next_move is NextMove.RETRY_AFTER else None
    if retry_after_ms is not None:
        retry_after_ms = min(retry_after_ms, RETRY_AFTER_MS_MAX)
    message = f"HTTP {refusal.status}: {refusal.message}" if refusal.status else refusal.message
    return WorkError(code=code, message=message[:2000], next=next_move, retry_after_ms=retry_after_ms)


def _code(refusal: Refusal, *, structured: bool) -> tuple[str, NextMove]:
    return _named(refusal) or _by_status(refusal) or _about_the_request(refusal, structured=structured)


def _named(refusal: Refusal) -> tuple[str, NextMove] | None:
    """What the endpoint says in words goes before its status."""
    status, names, text = refusal.status, refusal.names, refusal.message.lower()
    if status in (400, 413, 422) and _answer_too_long(text):
        return "max_tokens_beyond_room", NextMove.RETRY_ELSEWHERE
    if names & CONTEXT_CODES or (status in (400, 413) and any(phrase in text for phrase in CONTEXT_PHRASES)):
        return "context_overflow", NextMove.RETRY_ELSEWHERE
    if names & FILTER_CODES:
        return "content_filtered", NextMove.RETRY_ELSEWHERE
    if names & QUOTA_CODES or (status == 429 and any(phrase in text for phrase in QUOTA_PHRASES)):
        return "quota_exhausted", NextMove.RETRY_ELSEWHERE
    if names & OVERLOADED_CODES:
        return "engine_overloaded", NextMove.RETRY_AFTER
    return None


_STATUSES: Final = {
    401: ("engine_denied", NextMove.RETRY_ELSEWHERE),
    402: ("quota_exhausted", NextMove.RETRY_ELSEWHERE),
    403: ("engine_denied", NextMove.RETRY_ELSEWHERE),
    404: ("unknown_model", NextMove.RETRY_ELSEWHERE),
    408: ("timeout", NextMove.RETRY_ELSEWHERE),
    429: ("rate_limited", NextMove.RETRY_AFTER),
    504: ("timeout", NextMove.RETRY_ELSEWHERE),
    529: ("engine_overloaded", NextMove.RETRY_AFTER),
}


def _by_status(refusal: Refusal) -> tuple[str, NextMove] | None:
    if refusal.status == 503:
        wait = refusal.retry_after_ms is not None
        return "engine_overloaded", NextMove.RETRY_AFTER if wait else NextMove.RETRY_ELSEWHERE
    return _STATUSES.get(refusal.status)


def _about_the_request(refusal: Refusal, *, structured: bool) -> tuple[str, NextMove]:
    if not 400 <= refusal.status < 500:
        return "engine_error", NextMove.RETRY_ELSEWHERE
    text = refusal.message.lower()
    if any(phrase in text for phrase in IMAGE_PHRASES):
        return "image_unsupported", NextMove.RETRY_ELSEWHERE
    if structured and any(phrase in text for phrase in SCHEMA_PHRASES):
        # No model has run: to ask the same endpoint again changes nothing, another one may know the grammar.
        return "schema_invalid", NextMove.RETRY_ELSEWHERE
    return "bad_request", NextMove.GIVE_UP


def _answer_too_long(text: str) -> bool:
    """Whether the prompt fits and `max_tokens` does not, as vLLM and OpenAI say it."""
    if "max_tokens" not in text and "max_completion_tokens" not in text and "in the completion" not in text:
        return False
    if "too large" not in text and "maximum context length" not in text:
        return False
    room, prompt = _ROOM.search(text), _PROMPT.search(text)
    return room is None or prompt is None or int(prompt.group(1)) < int(room.group(1))


def beyond_room(message: str) -> WorkError:
    """The prompt fits, the answer does not."""
    return WorkError(code="max_tokens_beyond_room", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)


def unreachable(message: str) -> WorkError:
    """Nobody listens, or the connection broke before an answer."""
    return WorkError(code="engine_unreachable", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)


def disconnected(message: str) -> WorkError:
    """The engine went away in the middle of an answer."""
    return WorkError(code="engine_disconnected", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)


def timed_out(seconds: float) -> WorkError:
    """The deadline came before the answer."""
    return WorkError(code="timeout", message=f"no answer within {seconds:.1f} s", next=NextMove.RETRY_ELSEWHERE)

"""Tests of what an engine's refusals mean."""

import pytest

from penstock.contracts.messages import NextMove
from services.inference.core.failures import Refusal, meaning

R = NextMove


@pytest.mark.parametrize(
    ("status", "names", "message", "structured", "code", "next_move"),
    [
        (400, {"exceed_context_size_error"}, "request (4031 tokens)", False, "context_overflow", R.RETRY_ELSEWHERE),
        (400, {"context_length_exceeded"}, "too long", False, "context_overflow", R.RETRY_ELSEWHERE),
        (400, set(), "maximum context length is 8192", False, "context_overflow", R.RETRY_ELSEWHERE),
        (400, {"content_filter"}, "filtered", False, "content_filtered", R.RETRY_ELSEWHERE),
        (429, {"insufficient_quota"}, "pay", False, "quota_exhausted", R.RETRY_ELSEWHERE),
        (429, set(), "slow down", False, "rate_limited", R.RETRY_AFTER),
        (401, set(), "who", False, "engine_denied", R.RETRY_ELSEWHERE),
        (404, set(), "no such model", False, "unknown_model", R.RETRY_ELSEWHERE),
        (408, set(), "slow", False, "timeout", R.RETRY_ELSEWHERE),
        (503, set(), "busy", False, "engine_overloaded", R.RETRY_ELSEWHERE),
        (500, set(), "oops", False, "engine_error", R.RETRY_ELSEWHERE),
        (502, set(), "oops", False, "engine_error", R.RETRY_ELSEWHERE),
        (400, {"invalid_request_error"}, "JSON schema error at #/a", True, "schema_invalid", R.RETRY_ELSEWHERE),
        (
            400,
            {"BadRequestError"},
            "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens (20 in the "
            "messages, 2980 in the completion). Please reduce the length of the messages or completion.",
            False,
            "max_tokens_beyond_room",
            R.RETRY_ELSEWHERE,
        ),
        (
            400,
            {"BadRequestError"},
            "'max_tokens' or 'max_completion_tokens' is too large: 2980. This model's maximum context length is 2048 "
            "tokens and your request has 20 input tokens (2980 > 2048 - 20).",
            False,
            "max_tokens_beyond_room",
            R.RETRY_ELSEWHERE,
        ),
        (
            400,
            {"context_length_exceeded"},
            "This model's maximum context length is 2048 tokens. However, you requested 3016 tokens (3000 in the "
            "messages, 16 in the completion).",
            False,
            "context_overflow",
            R.RETRY_ELSEWHERE,
        ),
        (
            400,
            set(),
            "max_tokens is too large: 100000. At most 16384",
            False,
            "max_tokens_beyond_room",
            R.RETRY_ELSEWHERE,
        ),
        (400, set(), "image_url is only supported by certain models", False, "image_unsupported", R.RETRY_ELSEWHERE),
        (429, set(), "You exceeded your current quota", False, "quota_exhausted", R.RETRY_ELSEWHERE),
        (529, set(), "Overloaded", False, "engine_overloaded", R.RETRY_AFTER),
        (400, {"invalid_request_error"}, "JSON schema error at #/a", False, "bad_request", R.GIVE_UP),
        (422, set(), "what", False, "bad_request", R.GIVE_UP),
    ],
)
def test_every_refusal_has_a_code_and_a_next_move(
    status: int, names: set[str], message: str, structured: bool, code: str, next_move: NextMove
) -> None:
    error = meaning(Refusal(status, frozenset(names), message), structured=structured)

    assert (error.code, error.next) == (code, next_move)
    assert str(status) in error.message


def test_an_endpoint_that_says_when_is_asked_again_then_and_not_after_an_hour() -> None:
    busy = Refusal(503, frozenset(), "busy", retry_after_ms=7_000)
    away = Refusal(429, frozenset(), "later", retry_after_ms=3_600_000)

    assert meaning(busy, structured=False).next is NextMove.RETRY_AFTER
    assert meaning(busy, structured=False).retry_after_ms == 7_000
    assert meaning(away, structured=False).retry_after_ms == 600_000

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
        (400, {"invalid_request_error"}, "JSON schema error at #/a", True, "output_invalid", R.REPAIR_OUTPUT),
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

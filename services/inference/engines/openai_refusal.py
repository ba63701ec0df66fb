"""Owns how an OpenAI-compatible endpoint says no, and what it says of its limits: bodies and headers, read."""

import re
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
import orjson

from penstock.contracts.messages import WorkError
from services.inference.core.failures import Refusal, meaning
from services.inference.core.pacing import Left

ERROR_BYTES_MAX: Final = 64 * 1024
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def refused(response: httpx.Response, content: bytes, now_ms: int, *, structured: bool) -> WorkError:
    """What an answer that is none means. The endpoint's own request id is in the message, where it has one."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = content.decode(errors="replace")
    fault = body.get("error", body) if isinstance(body, dict) else body
    said = refusal(response.status_code, fault, retry_after_ms(response.headers, now_ms))
    error = meaning(said, structured=structured)
    theirs = response.headers.get("x-request-id")
    if theirs is None or theirs == response.request.headers.get("x-request-id"):
        return error
    return error.model_copy(update={"message": f"{error.message[:1900]} (x-request-id {theirs[:64]})"})


def refusal(status: int, fault: Any, retry_after_ms: int | None) -> Refusal:
    """An error as endpoints write it: an object with code, type, message, or anything else."""
    if not isinstance(fault, dict):
        return Refusal(status, frozenset(), str(fault), retry_after_ms)
    names = frozenset(str(fault[name]) for name in ("code", "type", "param") if fault.get(name) is not None)
    inner = fault.get("code")
    if status == 200 and isinstance(inner, int):
        status = inner  # an error in the middle of a stream carries the status it would have had
    return Refusal(status, names, str(fault.get("message") or fault.get("detail") or fault), retry_after_ms)


def retry_after_ms(headers: httpx.Headers, now_ms: int) -> int | None:
    """RFC 9110, section 10.2.3: seconds or a date; before it `retry-after-ms`, which managed endpoints send beside."""
    exact, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if exact is not None:
            return max(0, int(float(exact)))
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return int(float(value) * 1000)
        return max(0, int(parsedate_to_datetime(value).timestamp() * 1000) - now_ms)
    except (OverflowError, ValueError):
        return None


def left(headers: httpx.Headers) -> Left:
    """What the endpoint says is left of its limits (`x-ratelimit-…`, as OpenAI, Azure, Groq and others send them)."""
    return Left(
        _number(headers.get("x-ratelimit-remaining-requests")),
        _seconds(headers.get("x-ratelimit-reset-requests")),
        _number(headers.get("x-ratelimit-remaining-tokens")),
        _seconds(headers.get("x-ratelimit-reset-tokens")),
    )


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.strip().isascii() and value.strip().isdigit() else None


def _seconds(value: str | None) -> float | None:
    """`6m0s`, `120ms`, or plain seconds."""
    if value is None:
        return None
    parts = _SPAN.findall(value)
    if parts:
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    plain = value.strip().replace(".", "", 1)
    return float(value) if plain.isascii() and plain.isdigit() else None


async def bounded(response: httpx.Response) -> bytes:
    """The beginning of an error's body."""
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) >= ERROR_BYTES_MAX:
            break
    return bytes(content[:ERROR_BYTES_MAX])

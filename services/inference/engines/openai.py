"""Owns the engine behind an OpenAI-compatible endpoint: llama.cpp, `vllm serve`, or a managed API."""

import asyncio
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
import orjson

from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError
from services.inference.core.buckets import estimated_prompt_tokens, exclusive
from services.inference.core.failures import Refusal, disconnected, meaning, timed_out, unreachable
from services.inference.engines.protocol import (
    AbortedError,
    Delta,
    EngineFailedError,
    EngineLoad,
    Generation,
    ModelLimits,
    OnDelta,
)

CONNECT_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 2.0
"""Below the five seconds after which llama.cpp and uvicorn close an idle connection under our next request."""
ERROR_BYTES_MAX: Final = 64 * 1024
ANSWER_CHARACTERS_MAX: Final = 4 * 1024 * 1024


class OpenAiEngine:
    """Streams every answer, because only a stream tells when the first token came."""

    simulated: Final = False

    def __init__(
        self,
        base_url: str,
        *,
        connections: int,
        now_ms: Callable[[], int],
        api_key: str | None = None,
        name: str = "openai",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name: Final = name
        self._running = 0
        self._now_ms: Final = now_ms
        headers = {"content-type": "application/json"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._client: Final = httpx.AsyncClient(
            base_url=_with_version(base_url),
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the deadline bounds the call as a whole
            limits=httpx.Limits(
                max_connections=connections + 1,  # one for the probe
                max_keepalive_connections=connections + 1,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            transport=transport,
            trust_env=False,
        )

    async def start(self) -> None:
        """Nothing: the endpoint is somebody else's."""

    def limits(self, model: str) -> ModelLimits:  # noqa: ARG002  # endpoints do not say
        """Unknown: the endpoint refuses what its model does not take."""
        return ModelLimits()

    def load(self) -> EngineLoad:
        """Our calls; what others do there, endpoints do not say."""
        return EngineLoad(running=self._running)

    def prompt_tokens(self, request: InferenceRequested) -> int:
        """An estimate: the endpoint has the tokenizer."""
        return estimated_prompt_tokens(request)

    async def probe(self) -> str:
        """The models that the endpoint lists."""
        try:
            response = await self._client.get("models", timeout=CONNECT_SECONDS)
        except httpx.HTTPError as error:
            raise EngineFailedError(unreachable(_named(error))) from error
        if response.status_code != 200:
            raise EngineFailedError(_refused(response, response.content, self._now_ms(), structured=False))
        return f"{self._client.base_url} answers"

    async def generate(
        self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
    ) -> Generation:
        """One chat completion, streamed."""
        answer = _Answer(asyncio.get_running_loop().time, on_delta)
        self._running += 1
        try:
            async with asyncio.timeout(timeout_seconds):
                try:
                    await self._stream(request, answer)
                except httpx.RemoteProtocolError:
                    if answer.first_token_ms is not None:
                        raise
                    # A kept connection that the server closed as we wrote: it never read the request.
                    await self._stream(request, answer)
        except TimeoutError as error:
            raise answer.failed(timed_out(timeout_seconds), request) from error
        except asyncio.CancelledError as error:
            raise AbortedError(answer.spent(request), answer.first_token_ms) from error
        except httpx.HTTPError as error:
            reason = unreachable(_named(error)) if answer.first_token_ms is None else disconnected(_named(error))
            raise answer.failed(reason, request) from error
        finally:
            self._running -= 1
        return answer.generation(request)

    async def _stream(self, request: InferenceRequested, answer: "_Answer") -> None:
        headers = {"x-request-id": str(request.request_id)}
        async with self._client.stream(
            "POST", "chat/completions", content=orjson.dumps(_body(request)), headers=headers
        ) as response:
            if response.status_code != 200:
                content = await _bounded(response)
                structured = request.output_schema is not None
                raise answer.failed(_refused(response, content, self._now_ms(), structured=structured), request)
            async for line in response.aiter_lines():
                name, _, data = line.partition(":")
                data = data.strip()
                if name in ("data", "error") and data and data != "[DONE]":
                    answer.take(data, request)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


class _Answer:
    """An answer while it streams in."""

    def __init__(self, clock: Callable[[], float], on_delta: OnDelta | None) -> None:
        self._clock: Final = clock
        self._on_delta: Final = on_delta
        self._began: Final = clock()
        self._parts: Final[list[str]] = []
        self._characters = 0
        self._chunks = 0
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None
        self.first_token_ms: float | None = None

    def take(self, data: str, request: InferenceRequested) -> None:
        try:
            chunk = orjson.loads(data)
            fault = chunk.get("error", chunk if "choices" not in chunk else None)
            if fault is not None:
                refusal = _refusal(200, fault, None)
                raise self.failed(meaning(refusal, structured=request.output_schema is not None), request)
            for choice in chunk["choices"]:
                self._take_delta(choice.get("delta") or {})
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
            if chunk.get("usage"):
                self._usage = _usage(chunk["usage"])
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise self.failed(disconnected(f"the stream is not a chat completion: {error!r}"), request) from error

    def _take_delta(self, delta: dict[str, Any]) -> None:
        text = delta.get("content")
        if not text and not delta.get("reasoning_content") and not delta.get("reasoning"):
            return
        if self.first_token_ms is None:
            self.first_token_ms = (self._clock() - self._began) * 1000
        self._chunks += 1
        if text and self._characters < ANSWER_CHARACTERS_MAX:
            self._parts.append(text)
            self._characters += len(text)
            if self._on_delta is not None:
                self._on_delta(Delta(text, self._chunks))

    def spent(self, request: InferenceRequested) -> TokenUsage:
        """What a call that is stopped now has used: as the engine said, else one token per chunk that came."""
        return self._usage or self._estimated(request)

    def failed(self, error: WorkError, request: InferenceRequested) -> EngineFailedError:
        """A failure with what had been spent; where the engine has not said, one token per chunk that came."""
        usage = self._usage
        if usage is None and self._chunks:
            usage = self._estimated(request)
        return EngineFailedError(error, usage, self.first_token_ms)

    def generation(self, request: InferenceRequested) -> Generation:
        if self._finish_reason is None:
            raise self.failed(disconnected("the stream ended without a finish reason"), request)
        if self._finish_reason == "content_filter":
            refusal = Refusal(200, frozenset({"content_filter"}), "the endpoint's content filter stopped the answer")
            raise self.failed(meaning(refusal, structured=False), request)
        return Generation(
            text="".join(self._parts),
            finish_reason=self._finish_reason,
            usage=self._usage or self._estimated(request),
            first_token_ms=self.first_token_ms
            if self.first_token_ms is not None
            else (self._clock() - self._began) * 1000,
        )

    def _estimated(self, request: InferenceRequested) -> TokenUsage:
        return TokenUsage(input=estimated_prompt_tokens(request), output=self._chunks)


def _body(request: InferenceRequested) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.output_schema is not None:
        schema = {"name": "output", "strict": True, "schema": request.output_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _usage(usage: dict[str, Any]) -> TokenUsage:
    prompt_details = usage.get("prompt_tokens_details") or {}
    completion_details = usage.get("completion_tokens_details") or {}
    return exclusive(
        usage.get("prompt_tokens") or 0,
        prompt_details.get("cached_tokens") or 0,
        usage.get("completion_tokens") or 0,
        completion_details.get("reasoning_tokens") or 0,
    )


def _refused(response: httpx.Response, content: bytes, now_ms: int, *, structured: bool) -> WorkError:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = content.decode(errors="replace")
    fault = body.get("error", body) if isinstance(body, dict) else body
    retry_after_ms = _retry_after_ms(response.headers.get("retry-after"), now_ms)
    return meaning(_refusal(response.status_code, fault, retry_after_ms), structured=structured)


def _refusal(status: int, fault: Any, retry_after_ms: int | None) -> Refusal:
    if not isinstance(fault, dict):
        return Refusal(status, frozenset(), str(fault), retry_after_ms)
    names = frozenset(str(fault[name]) for name in ("code", "type", "param") if fault.get(name) is not None)
    inner = fault.get("code")
    if status == 200 and isinstance(inner, int):
        status = inner  # an error in the middle of a stream carries the status it would have had
    return Refusal(status, names, str(fault.get("message") or fault.get("detail") or fault), retry_after_ms)


def _retry_after_ms(value: str | None, now_ms: int) -> int | None:
    """RFC 9110, section 10.2.3: seconds or a date."""
    if value is None:
        return None
    try:
        if value.strip().isdigit():
            return int(value) * 1000
        return max(0, int(parsedate_to_datetime(value).timestamp() * 1000) - now_ms)
    except ValueError:
        return None


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) >= ERROR_BYTES_MAX:
            break
    return bytes(content[:ERROR_BYTES_MAX])


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _with_version(base_url: str) -> str:
    """`http://host:port` means `http://host:port/v1`, as clients of this API expect."""
    url = httpx.URL(base_url)
    return str(url.copy_with(path="/v1/")) if url.path in ("", "/") else base_url.rstrip("/") + "/"

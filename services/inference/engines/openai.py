"""Owns the engine behind an OpenAI-compatible endpoint: llama.cpp, `vllm serve`, or a managed API."""

import asyncio
from collections.abc import Callable
from typing import Final

import httpx
import orjson

from penstock.contracts.messages import InferenceRequested
from services.inference.core.buckets import estimated_prompt_tokens
from services.inference.core.failures import disconnected, timed_out, unreachable
from services.inference.core.pacing import Pace
from services.inference.engines.openai_answer import Answer
from services.inference.engines.openai_asked import Dialect, Endpoint, asked
from services.inference.engines.openai_pool import Pools
from services.inference.engines.openai_refusal import bounded, left, refused
from services.inference.engines.protocol import (
    AbortedError,
    EngineFailedError,
    EngineLoad,
    Generation,
    ModelLimits,
    OnDelta,
)

CONNECT_SECONDS: Final = 5.0
EMBEDDINGS_BYTES_MAX: Final = 64 * 1024 * 1024
TRIES_MAX: Final = 20
"""Calls that are sent again because the endpoint said `too many`; after so many somebody else uses up the limit."""
TOO_MANY_WAIT_SECONDS: Final = 0.5
"""Where it does not say how long; doubled with each try."""
_DIALECTS: Final[dict[str, Dialect]] = {"vllm": "vllm", "llamacpp": "llama.cpp"}
"""By who owns the models that an endpoint lists."""


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
        endpoint: Endpoint | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name: Final = name
        self._endpoint: Final = endpoint or Endpoint()
        self._dialect: Dialect = self._endpoint.dialect or "generic"
        self._context_tokens_max: Final[dict[str, int]] = {}
        self._running = 0
        self._waiting = 0
        self._now_ms: Final = now_ms
        self._pace: Pace | None = None
        self._turn: Final = asyncio.Lock()
        headers = {"content-type": "application/json", **self._endpoint.headers}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._pools: Final = Pools(_with_version(base_url), headers, connections, CONNECT_SECONDS, transport)

    async def start(self) -> None:
        """Nothing: the endpoint is somebody else's."""

    def limits(self, model: str) -> ModelLimits:
        """What the settings say, and the context that the endpoint lists; the rest it refuses by itself."""
        said = self._endpoint
        return ModelLimits(
            said.context_tokens_max or self._context_tokens_max.get(model),
            images=said.images,
            embeddings=said.embeddings,
            tools=said.tools,
            adapters=said.adapters,
            tokens_exact=False,
        )

    def load(self) -> EngineLoad:
        """Our calls, and those that wait for their turn; what others do there, endpoints do not say."""
        return EngineLoad(running=self._running - self._waiting, waiting=self._waiting)

    def prompt_tokens(self, request: InferenceRequested) -> int:
        """An estimate: the endpoint has the tokenizer."""
        return estimated_prompt_tokens(request)

    async def probe(self) -> str:
        """The models that the endpoint lists; what they say of themselves is kept."""
        try:
            response = await self._pools.probing.get("models", timeout=CONNECT_SECONDS)
        except httpx.HTTPError as error:
            raise EngineFailedError(unreachable(_named(error))) from error
        if response.status_code != 200:
            raise EngineFailedError(refused(response, response.content, self._now_ms(), structured=False))
        self._learn(response.content)
        return f"{self._pools.probing.base_url} answers"

    def _learn(self, content: bytes) -> None:
        try:
            models = [each for each in orjson.loads(content)["data"] if isinstance(each, dict)]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return
        for model in models:
            meta = model.get("meta")
            context = model.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
            if isinstance(context, int) and context > 0:
                self._context_tokens_max[str(model.get("id"))] = context
        if self._endpoint.dialect is None:
            owners = {str(model.get("owned_by")) for model in models}
            self._dialect = next((_DIALECTS[owner] for owner in owners if owner in _DIALECTS), "generic")

    async def generate(
        self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
    ) -> Generation:
        """One completion, streamed, or one list of embeddings."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + timeout_seconds
        answer = Answer(request, asked(request, self._endpoint, self._dialect), clock, on_delta)
        self._running += 1
        try:
            async with asyncio.timeout_at(ends_at):
                await self._paced(request, answer, ends_at)
        except TimeoutError as error:
            raise answer.failed(timed_out(timeout_seconds)) from error
        except asyncio.CancelledError as error:
            raise AbortedError(answer.spent(), answer.first_token_ms) from error
        finally:
            self._running -= 1
        return answer.generation()

    async def _paced(self, request: InferenceRequested, answer: Answer, ends_at: float) -> None:
        """Asks in its turn; again where the endpoint says `too many`, as long as there is time."""
        clock = asyncio.get_running_loop().time
        if self._pace is None:
            self._pace = Pace(self._endpoint.requests_per_minute, self._endpoint.tokens_per_minute, clock())
        pace = self._pace
        tokens = estimated_prompt_tokens(request) + (0 if request.operation == "embedding" else request.max_tokens)
        tries = 0
        while True:
            await self._wait_for_turn(pace, tokens)
            try:
                await self._exchange(answer)
            except EngineFailedError as error:
                pace.settle(tokens, answer.tokens or 0, clock())
                tries += 1
                wait_seconds = self._again_after(error, request, answer, tries)
                if wait_seconds is None or tries == TRIES_MAX or clock() + wait_seconds >= ends_at:
                    raise
                pace.hold(wait_seconds, clock())
            else:
                pace.settle(tokens, tokens if answer.tokens is None else answer.tokens, clock())
                return

    def _again_after(
        self, error: EngineFailedError, request: InferenceRequested, answer: Answer, tries: int
    ) -> float | None:
        """The seconds after which the call goes again, as the endpoint wants it; None where it does not."""
        if answer.first_token_ms is not None:
            return None
        if error.error.code == "max_tokens_beyond_room" and request.on_overflow == "clamp" and answer.asked.bounded:
            answer.asked = asked(request, self._endpoint, self._dialect, bounded=False)
            return 0.0
        if error.error.code != "rate_limited":
            return None
        after_ms = error.error.retry_after_ms
        return TOO_MANY_WAIT_SECONDS * 2 ** min(tries, 6) if after_ms is None else after_ms / 1000

    async def _wait_for_turn(self, pace: Pace, tokens: int) -> None:
        """Returns when a call may go, first come, first served."""
        clock = asyncio.get_running_loop().time
        self._waiting += 1
        try:
            async with self._turn:
                while (seconds := pace.wait_seconds(tokens, clock())) > 0:  # noqa: ASYNC110 - time is what is awaited
                    await asyncio.sleep(seconds)
                pace.take(tokens, clock())
        finally:
            self._waiting -= 1

    async def _exchange(self, answer: Answer) -> None:
        async with self._pools.client() as client:
            try:
                try:
                    await self._stream(client, answer)
                except httpx.RemoteProtocolError:
                    if answer.first_token_ms is not None:
                        raise
                    # A kept connection that the server closed as we wrote: it never read the request.
                    await self._stream(client, answer)
            except httpx.HTTPError as error:
                reason = unreachable(_named(error)) if answer.first_token_ms is None else disconnected(_named(error))
                raise answer.failed(reason) from error

    async def _stream(self, client: httpx.AsyncClient, answer: Answer) -> None:
        call, headers = answer.asked, {"x-request-id": answer.request_id}
        answer.sent = True
        async with client.stream("POST", call.path, content=orjson.dumps(call.body), headers=headers) as response:
            now = asyncio.get_running_loop().time()
            if self._pace is not None:
                self._pace.learn(left(response.headers), now)
            if response.status_code != 200:
                content = await bounded(response)
                raise answer.failed(refused(response, content, self._now_ms(), structured=answer.structured))
            if call.path == "embeddings":
                answer.take_embeddings(await _whole(response, answer))
                return
            async for line in response.aiter_lines():
                name, _, data = line.partition(":")
                data = data.strip()
                if name in ("data", "error") and data and data != "[DONE]":
                    answer.take(data)

    async def close(self) -> None:
        """Closes the connections."""
        await self._pools.close()


async def _whole(response: httpx.Response, answer: Answer) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > EMBEDDINGS_BYTES_MAX:
            raise answer.failed(disconnected(f"more than {EMBEDDINGS_BYTES_MAX} bytes of embeddings"))
    return bytes(content)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _with_version(base_url: str) -> str:
    """`http://host:port` means `http://host:port/v1`, as clients of this API expect."""
    url = httpx.URL(base_url)
    return str(url.copy_with(path="/v1/")) if url.path in ("", "/") else base_url.rstrip("/") + "/"

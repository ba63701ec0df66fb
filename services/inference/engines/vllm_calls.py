"""Owns one call in a vLLM engine: from its prompt to its answer, with what it had spent wherever it ended."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock.contracts.messages import InferenceRequested, NextMove, TokenLogprob, TokenUsage, WorkError
from services.inference.core.buckets import exclusive
from services.inference.core.failures import Refusal, meaning, timed_out
from services.inference.engines import vllm_library, vllm_prompts
from services.inference.engines.protocol import AbortedError, Delta, EngineFailedError, Generation, OnDelta
from services.inference.engines.vllm_library import Outputs
from services.inference.engines.vllm_life import Incarnation
from services.inference.engines.vllm_prompts import refusal
from services.inference.engines.vllm_tools import ToolCalls

NoteDeath = Callable[[Incarnation], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One call as it is made: what is asked, of which engine, by when (the loop's clock)."""

    request: InferenceRequested
    incarnation: Incarnation
    note_death: NoteDeath
    began: float
    ends_at: float
    ids: list[int] | None = None
    """The prompt's tokens, where they were counted before."""
    tool_parser: Callable[[Any, Any], Any] | None = None
    on_delta: OnDelta | None = None


@dataclass(slots=True)
class _Answer:
    """An answer while it comes."""

    prompt_tokens: int
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    first_token_ms: float | None = None
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def take(self, output: Any, asked: Asked, entered: float) -> str:
        """One of vLLM's outputs; says which text is new."""
        (piece,) = output.outputs
        clock = asyncio.get_running_loop().time
        self.cached = output.num_cached_tokens or 0
        if piece.token_ids:
            self.tokens += len(piece.token_ids)
            if self.first_token_ms is None:
                waited = entered - asked.began
                # The engine's own figure where there is only one output; counted from when it was handed over.
                own = None if output.metrics is None else output.metrics.first_token_latency
                seconds = waited + own if own else clock() - asked.began
                self.first_token_ms = min(seconds, clock() - asked.began) * 1000
        if asked.request.sampling is not None and asked.request.sampling.logprobs is not None:
            top_max = asked.request.sampling.logprobs
            for token, logprob, best in vllm_library.top_logprobs(piece):
                top = dict(best[:top_max]) if top_max else None
                self.logprobs.append(TokenLogprob(token=token, logprob=logprob, top=top))
        self.finish_reason = piece.finish_reason
        self.parts.append(piece.text)
        return str(piece.text)

    @property
    def usage(self) -> TokenUsage:
        return exclusive(self.prompt_tokens, self.cached, self.tokens, 0)

    def failed(self, error: WorkError) -> EngineFailedError:
        """With what it had spent by then: nothing that is known of, where no token had come."""
        return EngineFailedError(error, self.usage if self.tokens else None, self.first_token_ms)


async def generated(asked: Asked) -> Generation:
    """A chat's or a completion's answer. Raises EngineFailedError."""
    request, built = asked.request, asked.incarnation.built
    if built.pooling:
        raise refusal("generation_unsupported", f"{request.model} embeds, and writes nothing", NextMove.RETRY_ELSEWHERE)
    adapter = vllm_prompts.adapter(built, request)
    tools = ToolCalls(request, asked.tool_parser)
    prompt, prompt_tokens = await vllm_prompts.prompt(built, request, asked.ids)
    max_tokens = vllm_prompts.room(built, prompt_tokens, request)
    answer = _Answer(prompt_tokens)
    # Text that may turn out to be tool calls is shown when that is known.
    on_delta = None if tools.wanted else asked.on_delta
    bound = tools.bound() or vllm_prompts.bound(request)
    with _in_engine(asked, answer) as request_id:
        entered = asyncio.get_running_loop().time()
        sampled = vllm_prompts.sampled(request, max_tokens, bound, stream=on_delta is not None)
        if tools.parsed:
            sampled.values["skip_special_tokens"] = False
        parameters = sampled.parameters()
        priority = vllm_prompts.priority(built, request)
        outputs = await Outputs.of(built, prompt, parameters, request_id, adapter=adapter, priority=priority)
        with _aborted_in_time(asked, outputs):
            await _read(outputs, answer, asked, entered, on_delta)
    return _generation(asked, answer, tools, max_tokens)


async def _read(outputs: Outputs, answer: _Answer, asked: Asked, entered: float, on_delta: OnDelta | None) -> None:
    """All outputs until the last. Raises AbortedError, with what was spent, where the call is cancelled."""
    finished = False
    while not finished:
        try:
            output = await outputs.next()
        except asyncio.CancelledError as error:
            await outputs.abort()
            output = outputs.last()
            if output is not None:
                answer.take(output, asked, entered)
            raise AbortedError(answer.usage, answer.first_token_ms) from error
        finished = output.finished
        text = answer.take(output, asked, entered)
        if on_delta is not None and text:
            on_delta(Delta(text, answer.tokens))


def _generation(asked: Asked, answer: _Answer, tools: ToolCalls, max_tokens: int) -> Generation:
    if answer.finish_reason == "abort":
        raise answer.failed(timed_out(asked.ends_at - asked.began))
    if answer.finish_reason not in ("stop", "length"):
        message = f"vLLM ended the answer with {answer.finish_reason!r}"
        raise answer.failed(WorkError(code="engine_error", message=message, next=NextMove.RETRY_ELSEWHERE))
    try:
        text, calls = tools.read("".join(answer.parts), asked.incarnation.built.tokenizer)
    except EngineFailedError as error:
        raise answer.failed(error.error) from error
    if asked.on_delta is not None and tools.wanted and text:
        asked.on_delta(Delta(text, answer.tokens))
    sampling = asked.request.sampling
    return Generation(
        text=text,
        finish_reason="tool_calls" if calls else answer.finish_reason,
        usage=answer.usage,
        first_token_ms=answer.first_token_ms or 0.0,
        tool_calls=calls,
        logprobs=tuple(answer.logprobs) if sampling is not None and sampling.logprobs is not None else None,
        max_tokens_used=max_tokens if max_tokens != asked.request.max_tokens else None,
    )


async def embedded(asked: Asked) -> Generation:
    """A vector for each input. Raises EngineFailedError."""
    request, built = asked.request, asked.incarnation.built
    if not built.pooling:
        raise refusal("embeddings_unsupported", f"{request.model} writes, and embeds nothing", NextMove.RETRY_ELSEWHERE)
    prompts = [list(built.tokenizer.encode(text)) for text in request.inputs or []]
    longest = max(map(len, prompts))
    if longest > built.context_tokens_max:
        message = f"an input has {longest} tokens; the model holds {built.context_tokens_max}"
        raise refusal("context_overflow", message, NextMove.RETRY_ELSEWHERE)
    answer = _Answer(sum(map(len, prompts)))
    clock = asyncio.get_running_loop().time
    priority = vllm_prompts.priority(built, request)
    with _in_engine(asked, answer) as request_id:
        try:
            async with asyncio.timeout_at(asked.ends_at), asyncio.TaskGroup() as calls:
                tasks = [
                    calls.create_task(
                        vllm_library.embedded(built, ids, request.tenant, f"{request_id}/{index}", priority)
                    )
                    for index, ids in enumerate(prompts)
                ]
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        except TimeoutError as error:
            raise answer.failed(timed_out(asked.ends_at - asked.began)) from error
    elapsed_ms = (clock() - asked.began) * 1000
    vectors = tuple(task.result() for task in tasks)
    return Generation("", "stop", answer.usage, elapsed_ms, embeddings=vectors)


@contextmanager
def _in_engine(asked: Asked, answer: _Answer) -> Iterator[str]:
    """The call's id in vLLM while it is there; turns what vLLM raises into failures."""
    incarnation, request = asked.incarnation, asked.request
    request_id = incarnation.enter(request)
    try:
        yield request_id
    except EngineFailedError:
        raise
    except Exception as error:
        if vllm_library.is_death(error):
            asked.note_death(incarnation)
            raise answer.failed(incarnation.failure()) from error
        raise answer.failed(_meaning(error, request)) from error
    finally:
        incarnation.leave(request_id)


def _meaning(error: Exception, request: InferenceRequested) -> WorkError:
    message = f"vLLM: {error}"
    if vllm_library.is_refusal(error):
        bound = (request.output_schema, request.regex, request.choices, request.tools)
        found = meaning(Refusal(400, frozenset(), message), structured=any(each is not None for each in bound))
        return found.model_copy(update={"message": message[:2000]})  # there was no HTTP
    if vllm_library.is_full(error):
        return WorkError(code="engine_overloaded", message=message, next=NextMove.RETRY_ELSEWHERE)
    return WorkError(code="engine_error", message=f"{message} ({error.__cause__!r})", next=NextMove.RETRY_ELSEWHERE)


@contextmanager
def _aborted_in_time(asked: Asked, outputs: Outputs) -> Iterator[None]:
    """At its deadline the call is ended in the engine: its last output says how far it came."""
    loop = asyncio.get_running_loop()
    aborting: list[asyncio.Task[None]] = []
    due = loop.call_at(asked.ends_at, lambda: aborting.append(loop.create_task(outputs.abort())))
    try:
        yield
    finally:
        due.cancel()
        outputs.close()

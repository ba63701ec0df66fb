"""Owns the engine that is none: continuous batching as a roofline says, with marked text, for load and for sizing.

The answer follows from the request's id alone. Token counts are estimated from the texts (four characters each).
"""

import asyncio
from dataclasses import dataclass
from math import inf
from typing import Final

from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError
from services.inference.core.buckets import estimated_prompt_tokens
from services.inference.core.failures import timed_out
from services.inference.core.roofline import Roofline
from services.inference.core.simulated_answer import TOKEN_CHARACTERS, Said, said
from services.inference.core.simulation import Batch, Job, blocks_of, kv_tokens_max
from services.inference.engines.protocol import (
    AbortedError,
    Delta,
    EngineFailedError,
    EngineLoad,
    Generation,
    ModelLimits,
    OnDelta,
)

SLEEP_SECONDS_MIN: Final = 0.001
"""Steps are added up to at least this before waiting: a timer is no more precise, and an idle wake-up not free."""


@dataclass(slots=True, eq=False)
class _Call:
    job: Job
    said: Said
    done: asyncio.Future[None]
    arrived: float
    timeout_seconds: float
    on_delta: OnDelta | None
    prompt: int
    told: int = 0
    """Characters of its text that have been told."""
    first_token_ms: float | None = None

    @property
    def until(self) -> float:
        """Past which nobody awaits it."""
        return self.arrived + self.timeout_seconds


class SimulatedEngine:
    """Virtual time runs `speed` times as fast as the clock; all reported times are the clock's."""

    simulated: Final = True

    def __init__(
        self,
        roofline: Roofline,
        *,
        batch_max: int,
        speed: float = 1.0,
        name: str = "simulated",
        kv_max: int | None = None,
        adapters: frozenset[str] | None = None,
    ) -> None:
        """`kv_max` overrides what the accelerator's memory holds beside the weights. Raises ValueError for no room."""
        self.name: Final = name
        self._batch: Final = Batch(roofline, batch_max, kv_tokens_max(roofline) if kv_max is None else kv_max)
        if self._batch.kv_max < 1:
            raise ValueError("the model's weights leave no room in the accelerator's memory")
        self._speed: Final = speed
        self._calls: Final[dict[Job, _Call]] = {}
        self._streamed: Final[dict[Job, _Call]] = {}
        """Those whose text is told while it comes."""
        self._next: asyncio.Handle | None = None
        self._owed = self._waits_since = 0.0
        self._until = inf
        """No call has to be over before this."""
        context = roofline.model.context_tokens_max
        room = self._batch.kv_max if context is None else min(context, self._batch.kv_max)
        self._limits: Final = ModelLimits(room, images=True, embeddings=True, tools=True, adapters=adapters)

    async def start(self) -> None:
        """Nothing to load."""

    def limits(self, model: str) -> ModelLimits:  # noqa: ARG002  # it takes any
        """The context of the model that is simulated, or what of it fits into memory; all else it takes."""
        return self._limits

    def load(self) -> EngineLoad:
        """The batch, what waits for a place in it, and the room that there is for keys and values."""
        batch = self._batch
        return EngineLoad(
            running=len(batch.running),
            waiting=len(batch.waiting),
            kv_tokens_used=batch.kv_used,
            kv_tokens_max=batch.kv_max,
            preemptions=batch.preemptions,
            prefix_tokens_asked=batch.prefix_tokens_asked,
            prefix_tokens_hit=batch.prefix_tokens_hit,
        )

    def prompt_tokens(self, request: InferenceRequested) -> int:
        """Estimated from the texts, as its usage is."""
        return estimated_prompt_tokens(request)

    async def probe(self) -> str:
        """Always there."""
        return "simulated: no model answers"

    async def generate(
        self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
    ) -> Generation:
        """The request's text, as late as the hardware would have given it."""
        answer = said(request)
        if isinstance(answer, WorkError):
            raise EngineFailedError(answer)
        call = self._begun(request, answer, timeout_seconds, on_delta)
        try:
            await call.done
        except asyncio.CancelledError as error:
            self._leave(call)
            raise AbortedError(self._usage(call), call.first_token_ms) from error
        return Generation(
            answer.text,
            answer.finish_reason,
            self._usage(call),
            call.first_token_ms or 0.0,
            tool_calls=answer.tool_calls,
            logprobs=answer.logprobs,
            embeddings=answer.embeddings,
        )

    def _begun(
        self, request: InferenceRequested, answer: Said, timeout_seconds: float, on_delta: OnDelta | None
    ) -> _Call:
        loop = asyncio.get_running_loop()
        prompt, arrived = estimated_prompt_tokens(request), loop.time()
        job = Job(prompt, max(1, answer.output), blocks_of(request.tenant, _read(request)))  # also an embedding: a step
        call = _Call(job, answer, loop.create_future(), arrived, timeout_seconds, on_delta, prompt)
        self._calls[job] = call
        self._until = min(self._until, call.until)
        self._batch.add(job)
        if self._next is None:
            self._owed, self._waits_since = 0.0, arrived
            self._next = loop.call_soon(self._go_on)
        return call

    def _leave(self, call: _Call) -> None:
        """Before its end."""
        self._calls.pop(call.job, None)
        self._streamed.pop(call.job, None)
        self._batch.remove(call.job)

    def _go_on(self) -> None:
        """Tells what came of the steps whose time has passed, and takes the next ones."""
        self._next = None
        loop = asyncio.get_running_loop()
        now, batch = loop.time(), self._batch
        self._owed -= now - self._waits_since  # a late wake-up is made up for by the next steps
        self._owed = max(self._owed, -1.0)
        self._tell(now)
        if now >= self._until:
            self._end_late(now)
        while batch.running or batch.waiting:
            self._owed += batch.step() / self._speed
            if self._owed >= SLEEP_SECONDS_MIN or batch.ended:
                self._waits_since = loop.time()
                self._next = loop.call_later(max(0.0, self._owed), self._go_on)
                return

    def _tell(self, now: float) -> None:
        """Tells those in the batch what has come, and those who are done that they are."""
        batch, calls = self._batch, self._calls
        for job in batch.begun:
            call = calls.get(job)
            if call is not None and call.first_token_ms is None:
                call.first_token_ms = (now - call.arrived) * 1000
                if call.on_delta is not None:
                    self._streamed[job] = call
        batch.begun.clear()
        for call in self._streamed.values():
            self._tell_text(call)
        for job in batch.ended:
            call = calls.pop(job, None)
            if call is not None and not call.done.done():
                call.done.set_result(None)
            self._streamed.pop(job, None)
        batch.ended.clear()

    def _tell_text(self, call: _Call) -> None:
        """Tells what has come since the last time."""
        text, output = call.said.text, call.said.output
        given = self._batch.given(call.job)
        piece = text[call.told : len(text) if given >= output else given * TOKEN_CHARACTERS]
        if piece and call.on_delta is not None:
            call.told += len(piece)
            call.on_delta(Delta(piece, min(given, output)))

    def _end_late(self, now: float) -> None:
        """Ends those that nobody awaits any more."""
        for call in [each for each in self._calls.values() if each.until <= now]:
            self._leave(call)
            if not call.done.done():
                error = timed_out(call.timeout_seconds)
                call.done.set_exception(EngineFailedError(error, self._usage(call), call.first_token_ms))
        self._until = min((call.until for call in self._calls.values()), default=inf)

    def _usage(self, call: _Call) -> TokenUsage:
        """What it has used so far."""
        cached, given = call.job.cached_tokens, self._batch.given(call.job)
        output = min(call.said.output, given)
        return TokenUsage(input=call.prompt - cached, cached_input=cached, output=output)

    async def close(self) -> None:
        """Takes no step more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _read(request: InferenceRequested) -> str:
    """All text of the prompt, in the order in which a model reads it. Turns of a conversation only add to its end."""
    if request.prompt is not None:
        return request.prompt
    if request.adapter is not None:
        return f"{request.adapter}\n" + "".join(message.content for message in request.messages)
    return "".join(message.content for message in request.messages)

"""Owns the engine that is none: continuous batching as a roofline says, with marked text, for load and for sizing.

The answer follows from the request's id alone. Token counts are estimated from the texts (four characters each).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError
from services.inference.core.buckets import estimated_prompt_tokens
from services.inference.core.failures import timed_out
from services.inference.core.roofline import Roofline, Sequence
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
"""Steps are added up to at least this before sleeping: a timer is no more precise, and an idle wake-up not free."""


@dataclass(slots=True, eq=False)
class _Call:
    job: Job
    said: Said
    done: asyncio.Future[None]
    arrived: float
    on_delta: OnDelta | None
    prompt: int
    told: int = 0
    """Characters of its text that have been told."""
    first_token_ms: float | None = None

    @property
    def usage(self) -> TokenUsage:
        """What it has used so far."""
        cached = self.job.cached_tokens
        return TokenUsage(input=self.prompt - cached, cached_input=cached, output=min(self.said.output, self.job.given))

    def tell(self) -> None:
        """Tells what has come since the last time."""
        if self.on_delta is None or self.said.output == 0:
            return
        given = self.job.given
        upto = len(self.said.text) if self.job.sequence.finished else given * TOKEN_CHARACTERS
        text = self.said.text[self.told : upto]
        if text:
            self.told += len(text)
            self.on_delta(Delta(text, min(given, self.said.output)))


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
        self._loop: asyncio.Task[None] | None = None
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
        call = self._begun(request, answer, on_delta)
        try:
            async with asyncio.timeout(timeout_seconds):
                await call.done
        except TimeoutError as error:
            raise EngineFailedError(timed_out(timeout_seconds), call.usage, call.first_token_ms) from error
        except asyncio.CancelledError as error:
            raise AbortedError(call.usage, call.first_token_ms) from error
        finally:
            self._calls.pop(call.job, None)
            self._batch.remove(call.job)
        return Generation(
            answer.text,
            answer.finish_reason,
            call.usage,
            call.first_token_ms or 0.0,
            tool_calls=answer.tool_calls,
            logprobs=answer.logprobs,
            embeddings=answer.embeddings,
        )

    def _begun(self, request: InferenceRequested, answer: Said, on_delta: OnDelta | None) -> _Call:
        loop = asyncio.get_running_loop()
        prompt = estimated_prompt_tokens(request)
        output = max(1, answer.output)  # an embedding too takes one step
        job = Job(Sequence(prompt, output), output, blocks_of(request.tenant, _read(request)))
        call = _Call(job, answer, loop.create_future(), loop.time(), on_delta, prompt)
        self._calls[job] = call
        self._batch.add(job)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        return call

    async def _run(self) -> None:
        """One step after another while there is anybody in the batch."""
        loop = asyncio.get_running_loop()
        owed = 0.0
        batch = self._batch
        while batch.running or batch.waiting:
            owed += batch.step() / self._speed
            if owed >= SLEEP_SECONDS_MIN or any(job.sequence.finished for job in batch.running):
                slept_from = loop.time()
                await asyncio.sleep(owed)
                owed -= loop.time() - slept_from  # a late wake-up is made up for by the next steps
                owed = max(owed, -1.0)
                self._tell(loop.time())

    def _tell(self, now: float) -> None:
        """Tells those in the batch what has come, and those who are done that they are."""
        for job in list(self._batch.running):
            sequence = job.sequence
            if not sequence.started or not (job.watched or sequence.output_left <= 0):
                continue
            call = self._calls.get(job)
            if call is None or call.done.done():
                continue
            if call.first_token_ms is None:
                call.first_token_ms = (now - call.arrived) * 1000
                job.watched = call.on_delta is not None
            call.tell()
            if sequence.output_left <= 0:
                self._batch.keep(job)
                self._batch.remove(job)
                call.done.set_result(None)

    async def close(self) -> None:
        """Ends the loop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)


def _read(request: InferenceRequested) -> str:
    """All text of the prompt, in the order in which a model reads it. Turns of a conversation only add to its end."""
    if request.prompt is not None:
        return request.prompt
    if request.adapter is not None:
        return f"{request.adapter}\n" + "".join(message.content for message in request.messages)
    return "".join(message.content for message in request.messages)

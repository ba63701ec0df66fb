"""Owns the engine that is none: continuous batching as a roofline says, with marked text, for load and for sizing.

The answer follows from the request's id alone. Token counts are estimated from the texts (four characters each).
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import orjson

from penstock.contracts.messages import InferenceRequested, NextMove, TokenUsage, WorkError
from services.inference.core.buckets import estimated_prompt_tokens, estimated_tokens
from services.inference.core.failures import timed_out
from services.inference.core.roofline import Roofline, Sequence, step
from services.inference.core.sample import MARK, CannotSampleError, Dice, prose, value
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
    sequence: Sequence
    done: asyncio.Future[None]
    arrived: float
    first_token_ms: float = 0.0


class SimulatedEngine:
    """Virtual time runs `speed` times as fast as the clock; all reported times are the clock's."""

    simulated: Final = True
    name: Final = "simulated"

    def __init__(self, roofline: Roofline, *, batch_max: int, speed: float = 1.0) -> None:
        self._roofline: Final = roofline
        self._batch_max: Final = batch_max
        self._speed: Final = speed
        self._calls: Final[list[_Call]] = []
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to load."""

    def limits(self, model: str) -> ModelLimits:  # noqa: ARG002  # it takes any
        """No limits of its own."""
        return ModelLimits()

    def load(self) -> EngineLoad:
        """The batch, and what waits for a place in it."""
        running = min(len(self._calls), self._batch_max)
        return EngineLoad(running=running, waiting=len(self._calls) - running)

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
        text, finish_reason = _text(request)
        prompt = estimated_prompt_tokens(request)
        output = estimated_tokens(text)
        loop = asyncio.get_running_loop()
        call = _Call(Sequence(prompt, output), loop.create_future(), loop.time())
        self._calls.append(call)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout_seconds):
                await call.done
        except TimeoutError as error:
            spent = TokenUsage(input=prompt, output=max(0, output - call.sequence.output_left))
            first_token_ms = call.first_token_ms if call.sequence.started else None
            raise EngineFailedError(timed_out(timeout_seconds), spent, first_token_ms) from error
        except asyncio.CancelledError as error:
            spent = TokenUsage(input=prompt, output=max(0, output - call.sequence.output_left))
            raise AbortedError(spent, call.first_token_ms if call.sequence.started else None) from error
        finally:
            if call in self._calls:
                self._calls.remove(call)
        usage = TokenUsage(input=prompt, output=output)
        if on_delta is not None:
            on_delta(Delta(text, output))
        return Generation(text, finish_reason, usage, call.first_token_ms)

    async def _run(self) -> None:
        """One step after another while there is anybody in the batch."""
        loop = asyncio.get_running_loop()
        owed = 0.0
        while self._calls:
            batch = self._calls[: self._batch_max]
            owed += step([call.sequence for call in batch], self._roofline) / self._speed
            if owed >= SLEEP_SECONDS_MIN or any(call.sequence.finished for call in batch):
                slept_from = loop.time()
                await asyncio.sleep(owed)
                owed -= loop.time() - slept_from  # a late wake-up is made up for by the next steps
                owed = max(owed, -1.0)
            now = loop.time()
            for call in batch:
                if call.sequence.started and call.first_token_ms == 0.0:
                    call.first_token_ms = (now - call.arrived) * 1000
                if call.sequence.finished and not call.done.done():
                    call.done.set_result(None)
                    self._calls.remove(call)

    async def close(self) -> None:
        """Ends the loop."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)


def _text(request: InferenceRequested) -> tuple[str, str]:
    """The answer and why it ended, from the request's id."""
    dice = Dice(request.request_id.bytes)
    characters_max = max(len(MARK) + 4, request.max_tokens * 4)
    if request.output_schema is None:
        quarter = max(1, request.max_tokens // 4)
        text = prose(dice, 4 * (quarter + dice.below(request.max_tokens)))
    else:
        try:
            text = orjson.dumps(value(request.output_schema, dice)).decode()
        except (CannotSampleError, AttributeError, IndexError, TypeError, ValueError) as error:
            message = f"the simulated engine cannot do this schema: {error}"
            raise EngineFailedError(
                WorkError(code="schema_invalid", message=message[:2000], next=NextMove.RETRY_ELSEWHERE)
            ) from error
    return (text, "stop") if len(text) <= characters_max else (text[:characters_max], "length")

"""Owns what the service asks of an engine, whichever it is; one conformance suite holds all of them to it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.contracts.messages import Image, InferenceRequested, TokenLogprob, TokenUsage, ToolCall, WorkError
from services.inference.core.limits import ModelLimits

__all__ = [
    "Delta",
    "Engine",
    "EngineFailedError",
    "EngineLoad",
    "Generation",
    "LoadedImage",
    "ModelLimits",
    "OnDelta",
]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer as it came: its text, and how many output tokens there are up to its end."""

    text: str
    tokens: int


OnDelta = Callable[[Delta], None]
"""Told of each piece while the call runs. Must return at once, and must not raise."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine answered. Times in milliseconds from the call; `finish_reason` in OpenAI's words."""

    text: str
    finish_reason: str
    usage: TokenUsage
    first_token_ms: float
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    embeddings: tuple[tuple[float, ...], ...] | None = None
    """Of an embedding, a vector per input; `text` is empty then."""
    max_tokens_used: int | None = None
    """What `max_tokens` was clamped to, where it was."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine does at the moment. None where it does not say."""

    running: int = 0
    waiting: int = 0
    kv_tokens_used: int | None = None
    kv_tokens_max: int | None = None
    """Tokens whose keys and values fit into the engine's cache at a time."""
    preemptions: int = 0
    """So far: requests that were put out of the batch and have to be computed again."""
    prefix_tokens_asked: int = 0
    """So far: prompt tokens that were looked up in the prefix cache."""
    prefix_tokens_hit: int = 0


class LoadedImage(Image):
    """An image of a request with its bytes at hand: what every image is by the time that an engine is asked."""

    content: bytes


class EngineFailedError(Exception):
    """An engine did not answer, or not with what was asked. `usage` is what it had spent by then, as far as known."""

    def __init__(self, error: WorkError, usage: TokenUsage | None = None, first_token_ms: float | None = None) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
        self.usage = TokenUsage() if usage is None else usage
        self.first_token_ms = first_token_ms


class AbortedError(asyncio.CancelledError):
    """A call was cancelled: with what it had spent by then. An engine that does not know leaves CancelledError as it
    is."""

    def __init__(self, usage: TokenUsage, first_token_ms: float | None = None) -> None:
        super().__init__("the call was aborted")
        self.usage = usage
        self.first_token_ms = first_token_ms


class Engine(Protocol):
    """One engine. Calls run side by side; a cancelled call gives its place in the engine's batch back."""

    @property
    def name(self) -> str:
        """What answers and usage call it."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether its answers come from no model."""
        ...

    async def start(self) -> None:
        """Loads and warms up, where there is something to load. Raises EngineFailedError."""
        ...

    async def probe(self) -> str:
        """What is reachable, in words. Raises EngineFailedError where nothing is."""
        ...

    def limits(self, model: str) -> ModelLimits:
        """What a model takes, as far as it is known by now."""
        ...

    def load(self) -> EngineLoad:
        """What it does now. Costs nothing: no call leaves the process."""
        ...

    def prompt_tokens(self, request: InferenceRequested) -> int:
        """Tokens of the request's prompt: counted where the tokenizer is at hand, else estimated."""
        ...

    async def generate(
        self, request: InferenceRequested, timeout_seconds: float, on_delta: OnDelta | None = None
    ) -> Generation:
        """The model's answer, whatever the operation. Raises EngineFailedError."""
        ...

    async def close(self) -> None:
        """Ends what runs in it and gives connections and memory back."""
        ...

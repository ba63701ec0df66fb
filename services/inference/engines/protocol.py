"""Owns what the service asks of an engine, whichever it is; one conformance suite holds all of them to it."""

from dataclasses import dataclass
from typing import Protocol

from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine answered. Times in milliseconds from the call; `finish_reason` in OpenAI's words."""

    text: str
    finish_reason: str
    usage: TokenUsage
    first_token_ms: float


class EngineFailedError(Exception):
    """An engine did not answer, or not with what was asked. `usage` is what it had spent by then, as far as known."""

    def __init__(self, error: WorkError, usage: TokenUsage | None = None, first_token_ms: float | None = None) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
        self.usage = TokenUsage() if usage is None else usage
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

    async def probe(self) -> str:
        """What is reachable, in words. Raises EngineFailedError where nothing is."""
        ...

    async def generate(self, request: InferenceRequested, timeout_seconds: float) -> Generation:
        """The model's answer. Raises EngineFailedError."""
        ...

    async def close(self) -> None:
        """Gives connections back."""
        ...

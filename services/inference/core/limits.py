"""Owns what a model takes: as much of it as its engine knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one of an engine's models takes. None where the engine cannot know: it is asked then, and may refuse."""

    context_tokens_max: int | None = None
    images: bool | None = False
    embeddings: bool | None = False
    tools: bool | None = False
    adapters: frozenset[str] | None = frozenset()
    tokens_exact: bool = True
    """Whether the engine counts a prompt with the model's tokenizer. An estimate refuses nothing that may fit."""

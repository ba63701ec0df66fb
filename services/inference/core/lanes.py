"""Owns the order of lanes: which topics one pool's engines take from, urgent first."""

from typing import Final

from penstock.contracts.messages import Lane
from penstock.contracts.topics import INFERENCE_REQUESTED

URGENT_FIRST: Final = (Lane.INTERACTIVE, Lane.STANDARD, Lane.BATCH)


def topics(pool: str) -> tuple[str, ...]:
    """The broker topics of a pool. What does not fit into the engine waits there, where any replica can take it."""
    return tuple(INFERENCE_REQUESTED.named(pool=pool, lane=lane) for lane in URGENT_FIRST)


def handled_max(concurrency: int) -> int:
    """How many requests are handled at a time: all that may be in engines, and some that no engine is asked for."""
    return concurrency + 64

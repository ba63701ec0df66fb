"""Owns which version an alias means for a run: decided by the run's key, so that asking again changes nothing."""

from hashlib import sha1
from typing import Final
from uuid import UUID

from penstock.contracts.aliases import WorkflowAliased

_BITS: Final = 53
"""As many as a double holds exactly."""


def version_for(aliased: WorkflowAliased, run_key: UUID) -> str:
    """The version that a run of `name@alias` gets.

    A run's place does not depend on the shares: where a canary's share grows, those that had it keep it.
    """
    place = _place(aliased, run_key)
    reached = 0.0
    for canary in aliased.canaries:
        reached += canary.percent
        if place < reached:
            return canary.version
    return aliased.version


def versions_of(aliased: WorkflowAliased) -> tuple[str, ...]:
    """All versions that runs can get: the alias's own, then the canaries."""
    return (aliased.version, *(canary.version for canary in aliased.canaries))


def _place(aliased: WorkflowAliased, run_key: UUID) -> float:
    """Where in [0, 100) a run stands; runs of another alias stand elsewhere."""
    cause = f"{aliased.name}@{aliased.alias}".encode() + run_key.bytes
    digest = sha1(cause, usedforsecurity=False).digest()
    return 100 * (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS)

"""Owns what is said of aliases: names for a version of a workflow that can be moved, with a share for canaries."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from penstock.contracts.body import Message

AliasName = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_-]{0,62}$")]
AliasedVersion = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
CANARIES_MAX = 8


class Canary(Message):
    """A version that a share of the runs gets in place of the alias's own."""

    version: AliasedVersion
    percent: Annotated[float, Field(gt=0, le=100)]


class WorkflowAliased(Message):
    """What `name@alias` means from here on, for runs that start; the one that was set last holds."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=127)]
    alias: AliasName
    version: AliasedVersion
    canaries: list[Canary] = Field(default_factory=list, max_length=CANARIES_MAX)
    """Shares of all runs, a hundred percent together at most; the rest gets `version`."""
    set_at: datetime

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        versions = [self.version, *(canary.version for canary in self.canaries)]
        if len(set(versions)) < len(versions):
            raise ValueError("a version stands twice")
        if sum(canary.percent for canary in self.canaries) > 100:
            raise ValueError("the canaries' shares are more than a hundred percent together")
        return self

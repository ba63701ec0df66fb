"""Owns the port to the orchestrator's memory: what a batch writes, what an owner reads, and how either can fail."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from penstock.contracts.messages import Budget
from services.orchestrator.core.state import Amounts, Run, Step

OutboxRow = tuple[int, int]
"""(home, id) of one row of the outbox."""


class RunTakenError(Exception):
    """Another owner started a run under the same key since this batch looked: look again."""


@dataclass(frozen=True, slots=True)
class Advance:
    """How far one batch moves one topic of one home, and what must still hold for it to be allowed to."""

    home: int
    topic: str
    expected_offset: int
    next_offset: int
    owner_epoch: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """The run is to be woken at `due_at_ms`."""

    run_key: UUID
    home: int
    due_at_ms: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What decisions of one home took of a tenant's budget for a day; negative: what they gave back."""

    tenant: str
    day: int
    home: int
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class SliceClaim:
    """A home wants more of a tenant's day, as far as `caps` allow it for all homes together; negative: gives back."""

    tenant: str
    day: int
    home: int
    wanted: Amounts
    caps: Budget


@dataclass(frozen=True, slots=True)
class Slice:
    """What a claim was given, and what the home now holds of the day in all and has used of it."""

    given: Amounts
    granted: Amounts
    used: Amounts


@dataclass(slots=True)
class Batch:
    """Everything that one batch of records changes; it is written whole or not at all."""

    advances: list[Advance] = field(default_factory=list)
    started: list[Run] = field(default_factory=list)
    changed: list[Run] = field(default_factory=list)
    steps: list[tuple[Run, Step]] = field(default_factory=list)
    alarms_set: list[Alarm] = field(default_factory=list)
    alarms_cleared: list[UUID] = field(default_factory=list)
    acknowledged: list[OutboxRow] = field(default_factory=list)
    outbox: list[tuple[int, bytes]] = field(default_factory=list)
    """(home, packed records)."""
    charges: list[Charge] = field(default_factory=list)
    """At most one for each tenant, day and home."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where an owner reads on, and the epoch under which it may write."""

    next_offset: int
    owner_epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a new owner of homes finds: positions by (home, topic), unsent outbox rows in order, alarms."""

    positions: Mapping[tuple[int, str], Position]
    outbox: Sequence[tuple[int, int, bytes]]
    alarms: Sequence[Alarm]


class Store(Protocol):
    """Where runs are kept. All methods raise `Unavailable` while the database cannot be reached."""

    async def claim(self, homes: Collection[int], topics: Collection[str]) -> Claim:
        """Become the owner of `homes`: every earlier owner is fenced from here on."""

    async def load(self, keys: Collection[UUID]) -> dict[UUID, Run]:
        """The runs that exist under `keys`, with their steps."""

    async def commit(self, batch: Batch) -> list[OutboxRow]:
        """Write the batch; the ids of its outbox rows, in their order.

        Raises Fenced when one of `advances` does not hold any more, RunTakenError when one of `started` exists.
        """

    async def claim_slices(self, claims: Sequence[SliceClaim]) -> list[Slice]:
        """Give each claim what is left, in order; all homes together never hold more of a day than the caps."""

    async def delete_outbox(self, rows: Collection[OutboxRow]) -> None:
        """Forget rows whose records were acknowledged."""

    async def delete_finished_runs(self, before_ms: int, runs_max: int) -> int:
        """Remove at most `runs_max` runs that ended before `before_ms`, and tenants' days before; how many runs."""

    async def definitions(self) -> list[tuple[str, str, bytes]]:
        """(name, version, JSON) of all definitions, oldest first."""

    async def add_definition(self, name: str, version: str, definition: bytes, published_at_ms: int) -> bytes:
        """Keep a definition unless its name and version is taken; the JSON that is kept now."""

    async def broadcast_offset(self, topic: str) -> int:
        """Up to where refused records of a broadcast topic have been set aside, by any instance."""

    async def advance_broadcast(self, topic: str, next_offset: int) -> None:
        """Everything before `next_offset` has been taken or set aside."""

"""Owns the orchestrator's memory in a dict: for tests, under the same conformance suite as Postgres."""

import copy
from collections.abc import Collection, Sequence
from decimal import Decimal
from uuid import UUID

from penstock.runtime.errors import Fenced
from services.orchestrator.core.allowance import DAY_MS
from services.orchestrator.core.limits import CAPS, limit_of
from services.orchestrator.core.state import NOTHING, Amounts, Run
from services.orchestrator.shell.store import Alarm, Batch, Claim, OutboxRow, Position, RunTakenError, Slice, SliceClaim


class MemoryStore:
    """Implements Store. What goes in and out is copied, as if it had been written and read."""

    def __init__(self) -> None:
        self._runs: dict[UUID, Run] = {}
        self._positions: dict[tuple[int, str], Position] = {}
        self._outbox: dict[OutboxRow, bytes] = {}
        self._alarms: dict[UUID, Alarm] = {}
        self._definitions: dict[tuple[str, str], bytes] = {}
        self._broadcast: dict[str, int] = {}
        self._slices: dict[tuple[str, int, int], tuple[Amounts, Amounts]] = {}
        """(granted, used) by tenant, day and home."""
        self._rows = 0

    async def claim(self, homes: Collection[int], topics: Collection[str]) -> Claim:
        """See Store."""
        for home in homes:
            for topic in topics:
                held = self._positions.get((home, topic), Position(0, 0))
                self._positions[home, topic] = Position(held.next_offset, held.owner_epoch + 1)
        return Claim(
            positions={place: held for place, held in self._positions.items() if place[0] in homes},
            outbox=[(home, row, packed) for (home, row), packed in sorted(self._outbox.items()) if home in homes],
            alarms=[alarm for alarm in self._alarms.values() if alarm.home in homes],
        )

    async def load(self, keys: Collection[UUID]) -> dict[UUID, Run]:
        """See Store."""
        return {key: _stored(self._runs[key]) for key in keys if key in self._runs}

    async def commit(self, batch: Batch) -> list[OutboxRow]:
        """See Store."""
        for advance in batch.advances:
            if self._positions.get((advance.home, advance.topic)) != Position(
                advance.expected_offset, advance.owner_epoch
            ):
                raise Fenced(f"{advance.topic}/{advance.home} is not ours any more")
        if any(run.key in self._runs for run in batch.started):
            raise RunTakenError("a run exists already")
        for advance in batch.advances:
            self._positions[advance.home, advance.topic] = Position(advance.next_offset, advance.owner_epoch)
        for run in (*batch.started, *batch.changed):
            self._runs[run.key] = _stored(run)
        for run, step in batch.steps:
            stored = self._runs[run.key]
            stored.steps[step.path] = copy.deepcopy(step)
            stored.sequence, stored.usage = run.sequence, copy.copy(run.usage)
        for run_key in batch.alarms_cleared:
            self._alarms.pop(run_key, None)
        self._alarms.update({alarm.run_key: alarm for alarm in batch.alarms_set})
        for charge in batch.charges:
            key = (charge.tenant, charge.day, charge.home)
            granted, used = self._slices.get(key, (NOTHING, NOTHING))
            used += charge.amounts
            self._slices[key] = (
                granted,
                Amounts(max(0, used.model_calls), max(0, used.tokens), max(Decimal(0), used.cost)),
            )
        await self.delete_outbox(batch.acknowledged)
        return [self._add_outbox(home, packed) for home, packed in batch.outbox]

    async def claim_slices(self, claims: Sequence[SliceClaim]) -> list[Slice]:
        """See Store."""
        return [self._claim_slice(claim) for claim in claims]

    def _claim_slice(self, claim: SliceClaim) -> Slice:
        key = (claim.tenant, claim.day, claim.home)
        day = [granted for place, (granted, _) in self._slices.items() if place[:2] == key[:2]]
        given = []
        for cap in CAPS:
            limit, wanted = limit_of(claim.caps, cap), getattr(claim.wanted, cap)
            left = max(0, (limit or 0) - sum((getattr(granted, cap) for granted in day), start=Decimal(0)))
            given.append(min(wanted, left))
        gives = Amounts(int(given[0]), int(given[1]), Decimal(given[2]))
        granted, used = self._slices.get(key, (NOTHING, NOTHING))
        self._slices[key] = granted + gives, used
        return Slice(gives, *self._slices[key])

    async def delete_outbox(self, rows: Collection[OutboxRow]) -> None:
        """See Store."""
        for row in rows:
            self._outbox.pop(row, None)

    async def delete_finished_runs(self, before_ms: int, runs_max: int) -> int:
        """See Store."""
        ended = sorted(
            (run.finished_at_ms, run.key)
            for run in self._runs.values()
            if run.finished_at_ms is not None and run.finished_at_ms < before_ms
        )
        for _, key in ended[:runs_max]:
            del self._runs[key]
        first = before_ms // DAY_MS
        self._slices = {key: held for key, held in self._slices.items() if key[1] >= first}
        return len(ended[:runs_max])

    async def definitions(self) -> list[tuple[str, str, bytes]]:
        """See Store."""
        return [(name, version, body) for (name, version), body in self._definitions.items()]

    async def add_definition(self, name: str, version: str, definition: bytes, published_at_ms: int) -> bytes:  # noqa: ARG002  # the port's signature; only Postgres shows the time
        """See Store."""
        return self._definitions.setdefault((name, version), definition)

    async def broadcast_offset(self, topic: str) -> int:
        """See Store."""
        return self._broadcast.get(topic, 0)

    async def advance_broadcast(self, topic: str, next_offset: int) -> None:
        """See Store."""
        self._broadcast[topic] = max(self._broadcast.get(topic, 0), next_offset)

    def _add_outbox(self, home: int, packed: bytes) -> OutboxRow:
        self._rows += 1
        self._outbox[home, self._rows] = packed
        return home, self._rows


def _stored(run: Run) -> Run:
    """A copy without what is derived."""
    live, run.live = run.live, None
    try:
        return copy.deepcopy(run)
    finally:
        run.live = live

"""Owns what a batch of records comes to: rows per table, one per key, whatever the order and the repeats.

Rules that make order and repeats irrelevant live here and in sql/write.sql and nowhere else: the newest sequence
gives a run its status, the newest end wins, a ledger entry counts once by its request id, a definition never changes,
an alias is what was set last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
import orjson

from penstock.contracts import topics
from penstock.contracts.ids import run_key
from penstock.runtime.kafka.records import Received
from services.gateway.read_models import fields
from services.gateway.read_models.fields import Count, Form, MalformedRecordError, Moment, Text, body_of
from services.gateway.read_models.stretches import StretchRow, stretch_row
from services.gateway.read_models.usage import UsageRow, usage_row
from services.gateway.read_models.waste import IN_VAIN, Change, wasted_by

RUNNING: Final = "running"
SEQUENCE_OF_AN_END: Final = -1
LONG_AGO: Final = 0.0


class RunRow(msgspec.Struct, gc=False):
    """What the list of runs shows; the rest is read from the bodies. Times in seconds since 1970 UTC."""

    run_key: UUID
    tenant: str
    run_id: str
    workflow: str
    version: str
    labels: str
    started_at: float
    sequence: int
    status: str
    running_at: float
    updated_at: float

    def merge(self, other: "RunRow") -> None:
        """The same rule as `upsert_runs`."""
        if other.sequence > self.sequence:
            self.sequence, self.status, self.version = other.sequence, other.status, other.version
        self.started_at = min(self.started_at, other.started_at)
        self.running_at = max(self.running_at, other.running_at)
        self.updated_at = max(self.updated_at, other.updated_at)


@dataclass(slots=True)
class Batch:
    """The rows of one transaction."""

    runs: dict[UUID, RunRow] = field(default_factory=dict)
    progress: dict[tuple[UUID, int], bytes] = field(default_factory=dict)
    ends: dict[UUID, tuple[str, float, bytes]] = field(default_factory=dict)
    """Status, seconds since 1970 UTC, body."""
    usage: dict[UUID, UsageRow] = field(default_factory=dict)
    repeats: list[UsageRow] = field(default_factory=list)
    """Of requests that are in `usage`, from another life of an engine."""
    stretches: dict[tuple[UUID, int], StretchRow] = field(default_factory=dict)
    wasted: dict[tuple[UUID, UUID], int] = field(default_factory=dict)
    """Attempts that were in vain, by run and request."""
    definitions: dict[tuple[str, str], tuple[datetime, bytes]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], tuple[datetime, bytes]] = field(default_factory=dict)

    def keep_run(self, row: RunRow) -> None:
        """Merges what is known of a run in this batch."""
        known = self.runs.get(row.run_key)
        if known is None:
            self.runs[row.run_key] = row
        else:
            known.merge(row)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that cannot be understood, and why."""

    record: Received
    reason: str


class _Start(msgspec.Struct, gc=False):
    started_at: Moment


class _Progressed(msgspec.Struct, gc=False):
    """What is read of `penstock.run.progressed.v1`."""

    run_key: str
    run_id: Text
    tenant: Text
    workflow: Text
    version: Text
    status: Literal["running", "completed", "failed", "cancelled"]
    at: Moment
    labels: dict[str, Any] | None = None
    sequence: Count = 0
    changes: list[Change] = []
    start: _Start | None = None


class _Finished(msgspec.Struct, gc=False):
    """What is read of `penstock.run.finished.v1`."""

    run_id: Text
    tenant: Text
    workflow: Text
    version: Text
    status: Literal["completed", "failed", "cancelled"]
    started_at: Moment
    finished_at: Moment
    labels: dict[str, Any] | None = None


class _Published(msgspec.Struct, gc=False):
    """What is read of `penstock.workflow.published.v1`."""

    name: Text
    version: Text
    definition: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    published_at: Moment


class _Aliased(msgspec.Struct, gc=False):
    """What is read of `penstock.workflow.aliased.v1`."""

    name: Text
    alias: Text
    version: Text
    set_at: Moment


_PROGRESSED: Final = Form(_Progressed)
_FINISHED: Final = Form(_Finished)
_PUBLISHED: Final = Form(_Published)
_ALIASED: Final = Form(_Aliased)


def fold(records: Iterable[Received]) -> tuple[Batch, list[Refused]]:
    """What the records come to; those that cannot be understood are set aside."""
    batch = Batch()
    refused: list[Refused] = []
    for record in records:
        try:
            _FOLDERS[record.topic](batch, body_of(record))
        except MalformedRecordError as error:
            refused.append(Refused(record, str(error)))
    return batch, refused


def _progressed(batch: Batch, body: bytes) -> None:
    said = _PROGRESSED.read(body)
    key, at, status = fields.key("run_key", said.run_key), fields.seconds("at", said.at), said.status
    for change in said.changes:
        if change.phase in IN_VAIN or change.attempt != 1:
            for attempt, waste in wasted_by(key, change).items():
                batch.wasted[attempt] = min(waste, batch.wasted.get(attempt, waste))
    batch.progress.setdefault((key, said.sequence), body)
    batch.keep_run(
        RunRow(
            key,
            said.tenant,
            said.run_id,
            said.workflow,
            said.version,
            _labels(said.labels),
            at if said.start is None else fields.seconds("start.started_at", said.start.started_at),
            said.sequence,
            status,
            at if status == RUNNING else LONG_AGO,
            at,
        )
    )


def _finished(batch: Batch, body: bytes) -> None:
    said = _FINISHED.read(body)
    key = run_key(said.tenant, said.run_id)
    started_at = fields.seconds("started_at", said.started_at)
    finished_at = fields.seconds("finished_at", said.finished_at)
    known = batch.ends.get(key)
    if known is None or finished_at > known[1]:
        batch.ends[key] = (said.status, finished_at, body)
    batch.keep_run(
        RunRow(
            key,
            said.tenant,
            said.run_id,
            said.workflow,
            said.version,
            _labels(said.labels),
            started_at,
            SEQUENCE_OF_AN_END,
            RUNNING,
            started_at,
            finished_at,
        )
    )


def _used(batch: Batch, body: bytes) -> None:
    entry = usage_row(body)
    known = batch.usage.setdefault(entry.request_id, entry)
    if known is not entry and known.engine_session != entry.engine_session:
        batch.repeats.append(entry)


def _metered(batch: Batch, body: bytes) -> None:
    row = stretch_row(body)
    batch.stretches.setdefault((row.engine_session, row.sequence), row)


def _published(batch: Batch, body: bytes) -> None:
    said = _PUBLISHED.read(body)
    batch.definitions.setdefault((said.name, said.version), (said.published_at, body))


def _aliased(batch: Batch, body: bytes) -> None:
    said = _ALIASED.read(body)
    known = batch.aliases.get((said.name, said.alias))
    if known is None or said.set_at >= known[0]:
        batch.aliases[said.name, said.alias] = (said.set_at, body)


def _labels(labels: Mapping[str, Any] | None) -> str:
    return orjson.dumps(labels).decode() if labels else "{}"


_FOLDERS: Final[Mapping[str, Callable[[Batch, bytes], None]]] = {
    topics.RUN_PROGRESSED.name: _progressed,
    topics.RUN_FINISHED.name: _finished,
    topics.USAGE_RECORDED.name: _used,
    topics.ENGINE_METERED.name: _metered,
    topics.WORKFLOW_PUBLISHED.name: _published,
    topics.WORKFLOW_ALIASED.name: _aliased,
}

FOLDED: Final = frozenset(_FOLDERS)
"""The topics that become tables; what else the gateway hears is for those who watch at the moment."""

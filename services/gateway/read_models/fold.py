"""Owns what a batch of records comes to: rows per table, one per key, whatever the order and the repeats.

Rules that make order and repeats irrelevant live here and in sql/write.sql and nowhere else: the newest sequence
gives a run its status, the newest end wins, a ledger entry counts once by its request id, a definition never changes,
an alias is what was set last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from penstock.contracts import topics
from penstock.contracts.ids import run_key
from penstock.runtime.kafka.records import Received
from services.gateway.read_models import fields
from services.gateway.read_models.fields import MalformedRecordError
from services.gateway.read_models.stretches import StretchRow, stretch_row
from services.gateway.read_models.usage import UsageRow, usage_row
from services.gateway.read_models.waste import IN_VAIN, wasted_by

RUNNING: Final = "running"
ENDED: Final = frozenset({"completed", "failed", "cancelled"})
SEQUENCE_OF_AN_END: Final = -1
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class RunRow:
    """What the list of runs shows; the rest is read from the bodies."""

    run_key: UUID
    tenant: str
    run_id: str
    workflow: str
    version: str
    labels: str
    started_at: datetime
    sequence: int
    status: str
    running_at: datetime
    updated_at: datetime

    def merge(self, other: "RunRow") -> None:
        """The same rule as `upsert_runs`."""
        if other.sequence > self.sequence:
            self.sequence, self.status = other.sequence, other.status
        self.started_at = min(self.started_at, other.started_at)
        self.running_at = max(self.running_at, other.running_at)
        self.updated_at = max(self.updated_at, other.updated_at)


@dataclass(slots=True)
class Batch:
    """The rows of one transaction."""

    runs: dict[UUID, RunRow] = field(default_factory=dict)
    progress: dict[tuple[UUID, int], bytes] = field(default_factory=dict)
    ends: dict[UUID, tuple[str, datetime, bytes]] = field(default_factory=dict)
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


def fold(records: Iterable[Received]) -> tuple[Batch, list[Refused]]:
    """What the records come to; those that cannot be understood are set aside."""
    batch = Batch()
    refused: list[Refused] = []
    for record in records:
        try:
            _FOLDERS[record.topic](batch, *fields.document_of(record))
        except MalformedRecordError as error:
            refused.append(Refused(record, str(error)))
    return batch, refused


def _progressed(batch: Batch, document: fields.Document, body: bytes) -> None:
    key = fields.key(document, "run_key")
    sequence = fields.count(document, "sequence")
    at = fields.moment(document, "at")
    status = document.get("status")
    if status != RUNNING and status not in ENDED:
        raise MalformedRecordError("$.status: expected running, completed, failed or cancelled")
    start = document.get("start")
    _check_changes(batch, key, document.get("changes", ()))
    row = RunRow(
        run_key=key,
        tenant=fields.text(document, "tenant"),
        run_id=fields.text(document, "run_id"),
        workflow=fields.text(document, "workflow"),
        version=fields.text(document, "version"),
        labels=_labels(document),
        started_at=at if start is None else fields.moment(fields.mapping(document, "start"), "started_at"),
        sequence=sequence,
        status=status,
        running_at=at if status == RUNNING else LONG_AGO,
        updated_at=at,
    )
    batch.progress.setdefault((key, sequence), body)
    batch.keep_run(row)


def _finished(batch: Batch, document: fields.Document, body: bytes) -> None:
    tenant, run_id = fields.text(document, "tenant"), fields.text(document, "run_id")
    key = run_key(tenant, run_id)
    started_at, finished_at = fields.moment(document, "started_at"), fields.moment(document, "finished_at")
    status = document.get("status")
    if status not in ENDED:
        raise MalformedRecordError("$.status: expected completed, failed or cancelled")
    row = RunRow(
        run_key=key,
        tenant=tenant,
        run_id=run_id,
        workflow=fields.text(document, "workflow"),
        version=fields.text(document, "version"),
        labels=_labels(document),
        started_at=started_at,
        sequence=SEQUENCE_OF_AN_END,
        status=RUNNING,
        running_at=started_at,
        updated_at=finished_at,
    )
    known = batch.ends.get(key)
    if known is None or finished_at > known[1]:
        batch.ends[key] = (status, finished_at, body)
    batch.keep_run(row)


def _used(batch: Batch, document: fields.Document, body: bytes) -> None:
    entry = usage_row(document, body)
    known = batch.usage.setdefault(entry.request_id, entry)
    if known is not entry and known.engine_session != entry.engine_session:
        batch.repeats.append(entry)


def _metered(batch: Batch, document: fields.Document, body: bytes) -> None:
    row = stretch_row(document, body)
    batch.stretches.setdefault((row.engine_session, row.sequence), row)


def _published(batch: Batch, document: fields.Document, body: bytes) -> None:
    if not fields.mapping(document, "definition"):
        raise MalformedRecordError("$.definition: expected an object")
    name, version = fields.text(document, "name"), fields.text(document, "version")
    batch.definitions.setdefault((name, version), (fields.moment(document, "published_at"), body))


def _aliased(batch: Batch, document: fields.Document, body: bytes) -> None:
    name, alias = fields.text(document, "name"), fields.text(document, "alias")
    fields.text(document, "version")
    set_at = fields.moment(document, "set_at")
    known = batch.aliases.get((name, alias))
    if known is None or set_at >= known[0]:
        batch.aliases[name, alias] = (set_at, body)


def _check_changes(batch: Batch, run: UUID, changes: Any) -> None:
    if type(changes) is not list and changes != ():
        raise MalformedRecordError("$.changes: expected a list")
    for change in changes:
        if type(change) is not dict or type(change.get("step")) is not str or type(change.get("phase")) is not str:
            raise MalformedRecordError(f"$.changes[{changes.index(change)}]: expected a step and its phase")
        if change["phase"] in IN_VAIN or change.get("attempt", 1) != 1:
            for attempt, waste in wasted_by(run, change).items():
                batch.wasted[attempt] = min(waste, batch.wasted.get(attempt, waste))


def _labels(document: fields.Document) -> str:
    labels = fields.mapping(document, "labels")
    return orjson.dumps(labels).decode() if labels else "{}"


_FOLDERS: Final[Mapping[str, Callable[[Batch, fields.Document, bytes], None]]] = {
    topics.RUN_PROGRESSED.name: _progressed,
    topics.RUN_FINISHED.name: _finished,
    topics.USAGE_RECORDED.name: _used,
    topics.ENGINE_METERED.name: _metered,
    topics.WORKFLOW_PUBLISHED.name: _published,
    topics.WORKFLOW_ALIASED.name: _aliased,
}

FOLDED: Final = frozenset(_FOLDERS)
"""The topics that become tables; what else the gateway hears is for those who watch at the moment."""

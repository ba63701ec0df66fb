"""Owns what a batch of records comes to: rows per table, one per key, whatever the order and the repeats.

Rules that make order and repeats irrelevant live here and in sql/write.sql and nowhere else: the newest sequence
gives a run its status, the newest end wins, a ledger entry counts once by its request id, a definition never changes,
an alias is what was set last.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from penstock.contracts import topics
from penstock.contracts.ids import run_key
from penstock.runtime.kafka.records import Received
from services.gateway.read_models import fields
from services.gateway.read_models.fields import MalformedRecordError

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
class UsageRow:
    """One ledger entry with the hour and attribution that it is summed under."""

    run_key: UUID
    request_id: UUID
    recorded_at: datetime
    cost: Decimal
    tokens: tuple[int, int, int, int]
    busy_us: int
    failed: bool
    line: tuple[datetime, str, str, str, str, str, str, bool, str]
    body: bytes


@dataclass(slots=True)
class Batch:
    """The rows of one transaction."""

    runs: dict[UUID, RunRow] = field(default_factory=dict)
    progress: dict[tuple[UUID, int], bytes] = field(default_factory=dict)
    ends: dict[UUID, tuple[str, datetime, bytes]] = field(default_factory=dict)
    usage: dict[UUID, UsageRow] = field(default_factory=dict)
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


def cost_lines(entries: Iterable[UsageRow]) -> dict[tuple[Any, ...], list[Any]]:
    """The sums per hour and attribution: requests, failed, four token buckets, busy time, cost."""
    lines: dict[tuple[Any, ...], list[Any]] = {}
    for entry in entries:
        sums = lines.get(entry.line)
        if sums is None:
            sums = lines[entry.line] = [0, 0, 0, 0, 0, 0, 0, Decimal(0)]
        sums[0] += 1
        sums[1] += entry.failed
        sums[2] += entry.tokens[0]
        sums[3] += entry.tokens[1]
        sums[4] += entry.tokens[2]
        sums[5] += entry.tokens[3]
        sums[6] += entry.busy_us
        sums[7] += entry.cost
    return lines


def _progressed(batch: Batch, document: fields.Document, body: bytes) -> None:
    key = fields.key(document, "run_key")
    sequence = fields.count(document, "sequence")
    at = fields.moment(document, "at")
    status = document.get("status")
    if status != RUNNING and status not in ENDED:
        raise MalformedRecordError("$.status: expected running, completed, failed or cancelled")
    start = document.get("start")
    _check_changes(document.get("changes", ()))
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
    request = fields.key(document, "request_id")
    if request in batch.usage:
        return
    tokens = fields.mapping(document, "tokens")
    cost = fields.mapping(document, "cost")
    total_ms = fields.mapping(document, "timing").get("total_ms", 0)
    if not isinstance(total_ms, (int, float)) or not 0 <= total_ms <= fields.INTEGER_MAX / 1000:
        raise MalformedRecordError("$.timing.total_ms: expected a number from 0")
    recorded_at = fields.moment(document, "recorded_at")
    batch.usage[request] = UsageRow(
        run_key=fields.key(document, "run_key"),
        request_id=request,
        recorded_at=recorded_at,
        cost=fields.amount(cost, "amount"),
        tokens=(
            fields.count(tokens, "input"),
            fields.count(tokens, "cached_input"),
            fields.count(tokens, "output"),
            fields.count(tokens, "reasoning"),
        ),
        busy_us=round(total_ms * 1000),
        failed=document.get("status") != "succeeded",
        line=(
            recorded_at.replace(minute=0, second=0, microsecond=0),
            fields.text(document, "tenant"),
            fields.text(document, "workflow"),
            fields.text(document, "version"),
            fields.text(document, "kind"),
            fields.text(document, "subject"),
            "" if document.get("pool") is None else fields.text(document, "pool"),
            document.get("simulated") is True,
            fields.text(cost, "currency"),
        ),
        body=body,
    )


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


def _check_changes(changes: Any) -> None:
    if type(changes) is not list and changes != ():
        raise MalformedRecordError("$.changes: expected a list")
    for change in changes:
        if type(change) is not dict or type(change.get("step")) is not str or type(change.get("phase")) is not str:
            raise MalformedRecordError(f"$.changes[{changes.index(change)}]: expected a step and its phase")


def _labels(document: fields.Document) -> str:
    labels = fields.mapping(document, "labels")
    return orjson.dumps(labels).decode() if labels else "{}"


_FOLDERS: Final[Mapping[str, Callable[[Batch, fields.Document, bytes], None]]] = {
    topics.RUN_PROGRESSED.name: _progressed,
    topics.RUN_FINISHED.name: _finished,
    topics.USAGE_RECORDED.name: _used,
    topics.WORKFLOW_PUBLISHED.name: _published,
    topics.WORKFLOW_ALIASED.name: _aliased,
}

FOLDED: Final = frozenset(_FOLDERS)
"""The topics that become tables; what else the gateway hears is for those who watch at the moment."""

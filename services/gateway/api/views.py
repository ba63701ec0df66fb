"""Owns what the rows mean to a reader: a line of the list, a run with its steps. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from pydantic import ValidationError

from penstock.contracts.blobs import references_in
from penstock.contracts.ids import child_run_id
from penstock.contracts.messages import RunProgressed, RunUsage, StepChange, UsageRecorded
from services.gateway.api.bodies import Attempt, RunDetail, RunLine, StepLine
from services.gateway.read_models.reader import CHANGES_MAX

Row = Mapping[str, Any]

PREVIEW_CHARACTERS: Final = 4_000
"""Of a large value, what a person is shown first."""
RUN: Final = "run"
"""The kind of a step that asks for child runs."""


def links(run_id: str, tenant: str) -> dict[str, str]:
    """Where a run is found."""
    query = "" if tenant == "default" else f"?tenant={tenant}"
    path = f"/v1/runs/{quote(run_id, safe='')}"
    return {"run": path + query, "events": f"{path}/events{query}", "cancel": f"{path}/cancel{query}"}


def page_link(run_id: str, tenant: str) -> str:
    """Where a person looks at a run."""
    return f"/runs/{quote(run_id, safe='')}" + ("" if tenant == "default" else f"?tenant={tenant}")


def blob_links(value: Any, tenant: str) -> list[tuple[str, str]]:
    """The large parts of a value: how each is called, and where a person looks at it."""
    return [
        (
            f"{reference.size_bytes} bytes of {reference.media_type}",
            f"/v1/blobs/sha256:{reference.digest}?tenant={tenant}&media_type={quote(reference.media_type)}"
            + (f"&preview={PREVIEW_CHARACTERS}" if reference.is_json else ""),
        )
        for reference in references_in(value, others=True)
    ]


def line(row: Row) -> RunLine:
    """A run in the list, with what its newest progress record says."""
    newest = _progressed(row["progress"] or {})
    return RunLine(
        run_id=row["run_id"],
        tenant=row["tenant"],
        workflow=row["workflow"],
        version=row["version"],
        status=row["status"],
        labels=row["labels"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        usage=newest.usage if newest else RunUsage(),
        error=newest.error if newest else None,
    )


def requested(row: Row) -> RunDetail:
    """A run that was accepted and has not started."""
    return RunDetail(
        run_id=row["run_id"],
        tenant=row["tenant"],
        workflow=row["workflow"],
        status="requested",
        links=links(row["run_id"], row["tenant"]),
    )


def detail(row: Row, progress: Iterable[Mapping[str, Any]], usage: Iterable[Mapping[str, Any]]) -> RunDetail:
    """A run with its steps."""
    records = [record for document in progress if (record := _progressed(document)) is not None]
    start = next((record.start for record in records if record.start is not None), None)
    newest = records[-1] if records else None
    ending = row["ending"] or {}
    entries = [entry for document in usage if (entry := _used(document)) is not None]
    changes = [change for record in records for change in record.changes]
    return RunDetail(
        run_id=row["run_id"],
        tenant=row["tenant"],
        workflow=row["workflow"],
        version=row["version"],
        status=row["status"],
        labels=row["labels"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        usage=newest.usage if newest else RunUsage(),
        error=ending.get("error") or (newest.error if newest else None),
        priority=start.priority if start else None,
        deadline=start.deadline if start else None,
        budget=start.budget if start else None,
        caps_neared=[neared for record in records for neared in record.caps_neared],
        input_preview=start.input_preview if start else None,
        output=ending.get("output"),
        sequence=row["sequence"],
        simulated=any(entry.simulated for entry in entries),
        undoing=newest.undoing if newest and row["status"] == newest.status else False,
        parent_run_id=start.parent.run_id if start and start.parent else None,
        parent_step=start.parent.step if start and start.parent else None,
        steps=steps(changes[:CHANGES_MAX], entries),
        steps_truncated=len(changes) > CHANGES_MAX,
        links=links(row["run_id"], row["tenant"]),
    )


def steps(changes: Iterable[StepChange], entries: Iterable[UsageRecorded]) -> list[StepLine]:
    """The steps in the order in which they first appeared, each as its last change leaves it."""
    attempts: dict[str, list[Attempt]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.step, entry.attempt)):
        attempts.setdefault(entry.step, []).append(_attempt(entry))
    found: dict[str, StepLine] = {}
    for change in changes:
        known = found.get(change.step)
        found[change.step] = StepLine(
            step=change.step,
            kind=change.kind,
            phase=change.phase,
            attempt=change.attempt,
            route=change.route if change.route is not None or known is None else known.route,
            route_reason=change.route_reason if change.route is not None or known is None else known.route_reason,
            first_at=change.at if known is None else known.first_at,
            last_at=change.at,
            preview=change.preview,
            error=change.error,
            child_run_id=child_run_id(change.request_id) if change.kind == RUN and change.request_id else None,
            attempts=attempts.get(change.step, []),
        )
    return list(found.values())


def _attempt(entry: UsageRecorded) -> Attempt:
    return Attempt(
        attempt=entry.attempt,
        subject=entry.subject,
        engine=entry.engine,
        simulated=entry.simulated,
        status=entry.status,
        tokens=entry.tokens,
        queue_ms=entry.timing.queue_ms,
        first_token_ms=entry.timing.first_token_ms,
        total_ms=entry.timing.total_ms,
        cost=format(entry.cost.amount, "f"),
        currency=entry.cost.currency,
    )


def _progressed(document: Mapping[str, Any]) -> RunProgressed | None:
    try:
        return RunProgressed.model_validate(document)
    except ValidationError:
        return None  # what the tables need was checked on the way in; a reader skips what else is odd


def _used(document: Mapping[str, Any]) -> UsageRecorded | None:
    try:
        return UsageRecorded.model_validate(document)
    except ValidationError:
        return None

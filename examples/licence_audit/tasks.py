"""Owns the two steps of the audit that need no model: reading a document, and making the table.

Whoever may request a run names the files that `licences.read` opens: run these tasks where that is meant to be so.
"""

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from examples.licence_audit.cleaning import NotTextError, clean
from examples.licence_audit.declared import Kind, declared_kind
from examples.licence_audit.documents import DOCUMENT_BYTES_MAX
from penstock.workflow.task import Failed, task

NOTE_CHARACTERS_MAX: Final = 200


class Excerpt(BaseModel):
    """What the model gets to read of a document. `note` is for whoever reads the table."""

    text: str
    bytes: int
    note: str


class Subject(BaseModel):
    """One document of the run's input."""

    path: str
    package: str
    version: str = ""
    declared: str = ""


class Row(BaseModel):
    """One line of the table. `agrees` is null where nothing comparable is declared or the audit failed."""

    package: str
    version: str
    path: str
    declared: str
    declared_kind: Kind | None
    name: str | None = None
    obligations: list[str] = []
    kind: Kind | None = None
    first_kind: Kind | None = None
    confidence: str | None = None
    second_look: bool = False
    summary: str | None = None
    agrees: bool | None = None
    note: str = ""
    error: str | None = None


class Table(BaseModel):
    """The audit. `share` is `agreed` of `counted`: of the documents whose kind is both declared and answered."""

    rows: list[Row]
    audited: int
    failed: int
    counted: int
    agreed: int
    share: float | None


@task(name="licences.read")
def read(path: str) -> Excerpt:
    """The informative part of a document, cut to a few hundred tokens."""
    file = Path(path)
    try:
        if not file.is_file():
            raise Failed("document_missing", f"there is no file {path} where this worker runs")
        if file.stat().st_size > DOCUMENT_BYTES_MAX:
            raise Failed("document_too_large", f"{path} has more than {DOCUMENT_BYTES_MAX} bytes")
        content = file.read_bytes()
    except PermissionError as error:
        raise Failed("document_unreadable", f"{path}: {error.strerror}") from error
    try:
        cleaned = clean(content)
    except NotTextError as error:
        raise Failed("document_not_text", f"{path}: {error}") from error
    if not cleaned.text:
        raise Failed("document_empty", f"{path} holds no text that could be audited")
    note = "" if cleaned.encoding == "utf-8" else f"not UTF-8, read as {cleaned.encoding}"
    return Excerpt(text=cleaned.text, bytes=len(content), note=note)


@task(name="licences.tabulate")
def tabulate(documents: list[Subject], audits: list[dict[str, Any]]) -> Table:
    """What the model said of each document beside what its package declares."""
    rows = [_row(subject, audit) for subject, audit in zip(documents, audits, strict=True)]
    counted = [row for row in rows if row.agrees is not None]
    agreed = sum(row.agrees is True for row in counted)
    failed = sum(row.error is not None for row in rows)
    return Table(
        rows=rows,
        audited=len(rows) - failed,
        failed=failed,
        counted=len(counted),
        agreed=agreed,
        share=round(agreed / len(counted), 3) if counted else None,
    )


def _row(subject: Subject, audit: dict[str, Any]) -> Row:
    declared = declared_kind(subject.declared, subject.path)
    row = Row(**subject.model_dump(), declared_kind=declared)
    error = audit.get("error")
    if error is not None:
        return row.model_copy(update={"error": f"{error.get('code')}: {error.get('message')}"[:NOTE_CHARACTERS_MAX]})
    first, second = audit["first"], audit["second"]
    said = second or first
    return row.model_copy(
        update={
            "name": audit["name"],
            "obligations": audit["obligations"],
            "kind": said["kind"],
            "first_kind": first["kind"],
            "confidence": first["confidence"],
            "second_look": second is not None,
            "summary": " ".join(audit["summary"].split()),
            "agrees": None if declared is None else said["kind"] == declared,
            "note": audit["note"],
        }
    )

"""Owns the tests of the audit's tasks, called as a worker calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

import examples.licence_audit.tasks  # noqa: F401 - registers them
from examples.licence_audit.documents import DOCUMENT_BYTES_MAX
from penstock.workflow.task import Failed, find


def call(name: str, value: dict[str, Any]) -> Any:
    registered = find(name)
    assert registered is not None
    return json.loads(registered.output_json(registered.function(**registered.arguments(value))))


def audited(kind: str, second: str | None = None) -> dict[str, Any]:
    return {
        "name": "A License",
        "obligations": ["keep the notice"],
        "first": {"kind": kind, "confidence": "low"},
        "second": None if second is None else {"kind": second, "confidence": "high"},
        "summary": "It  allows\neverything.",
        "note": "",
    }


def subject(declared: str) -> dict[str, str]:
    return {"path": "/somewhere/LICENSE", "package": "package", "version": "1", "declared": declared}


def test_a_document_is_read(tmp_path: Path) -> None:
    file = tmp_path / "LICENSE"
    file.write_bytes("MIT License für alle".encode("cp1252"))
    assert call("licences.read", {"path": str(file)}) == {
        "text": "MIT License für alle",
        "bytes": 20,
        "note": "not UTF-8, read as cp1252",
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "document_empty"),
        (b"\0\0", "document_not_text"),
        (b"x" * (DOCUMENT_BYTES_MAX + 1), "document_too_large"),
        (None, "document_missing"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, content: bytes | None, code: str) -> None:
    file = tmp_path / "LICENSE"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Failed) as failure:
        call("licences.read", {"path": str(file)})
    assert failure.value.code == code
    assert str(file) in failure.value.message


def test_the_table_counts_what_can_be_compared() -> None:
    # given an agreement, a disagreement corrected by a second look, something undeclared, and a failure
    declared = ["MIT", "GPL-3.0-only", "", "MIT"]
    failure = {"error": {"code": "document_empty", "message": "nothing", "step": "audit/documents[3]/document/read"}}
    audits = [audited("permissive"), audited("permissive", "strong_copyleft"), audited("other"), failure]

    # when they are tabulated
    table = call("licences.tabulate", {"documents": [subject(each) for each in declared], "audits": audits})

    # then two are counted, both agree, and the failure has its reason
    assert {name: table[name] for name in ("audited", "failed", "counted", "agreed", "share")} == {
        "audited": 3,
        "failed": 1,
        "counted": 2,
        "agreed": 2,
        "share": 1.0,
    }
    assert [row["agrees"] for row in table["rows"]] == [True, True, None, None]
    assert [row["second_look"] for row in table["rows"]] == [False, True, False, False]
    assert table["rows"][1]["first_kind"] == "permissive"
    assert table["rows"][0]["summary"] == "It allows everything."
    assert table["rows"][3]["error"] == "document_empty: nothing"


def test_without_anything_to_compare_there_is_no_share() -> None:
    table = call("licences.tabulate", {"documents": [subject("")], "audits": [audited("permissive")]})
    assert (table["counted"], table["share"]) == (0, None)

"""Owns the promises of the definition's JSON Schema: up to date, in words, and what it lets through is a definition."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from penstock.workflow import editor
from penstock.workflow.notation import parse, values

ROOT = Path(__file__).parents[2]
LANGUAGE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GREET = (ROOT / "examples/plain_clients/greet.yaml").read_text()
SCHEMA = editor.schema()


def definitions() -> Iterator[Any]:
    """Every definition that people are shown."""
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        if re.search(r"^do:", file.read_text(), re.MULTILINE):
            yield pytest.param(file.read_text(), id=file.name)
    for document in LANGUAGE:
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)):
            if re.search(r"^do:", text, re.MULTILINE):
                yield pytest.param(text, id=f"{document.name}-{number}")


def test_the_file_is_up_to_date() -> None:
    assert editor.main(["--check"]) == 0


def test_a_stale_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(editor, "ROOT", tmp_path)

    assert editor.main(["--check"]) == 1


@pytest.mark.parametrize("text", list(definitions()))
def test_what_people_are_shown_passes(text: str) -> None:
    body, _ = values(text)

    jsonschema_rs.validate(SCHEMA, body)


def test_every_field_is_described() -> None:
    models = [SCHEMA, *SCHEMA["$defs"].values()]
    fields = [
        (model.get("title"), name, field) for model in models for name, field in model.get("properties", {}).items()
    ]

    assert len(fields) > 100
    assert [(title, name) for title, name, field in fields if not field.get("description")] == []


def test_a_field_without_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(editor._FIELDS, "chain")

    with pytest.raises(editor.UndescribedError, match=r"Chain\.chain needs a docstring"):
        editor.schema()


@pytest.mark.parametrize("value", ["text", {"file": "prompts/greet.md"}])
def test_a_prompt_is_text_or_a_file(value: Any) -> None:
    body, _ = values(GREET)
    body["do"]["prompt"] = value

    jsonschema_rs.validate(SCHEMA, body)


@pytest.mark.parametrize(
    ("old", "new"),
    [("prompt:", "promt:"), ("max_tokens: 64", "max_tokens: 0"), ("name: greet", "nam: greet"), ("id: greet", "id: 7")],
)
def test_what_cannot_be_a_definition_does_not_pass(old: str, new: str) -> None:
    body, _ = values(GREET.replace(old, new, 1))

    assert parse(body).definition is None
    assert not jsonschema_rs.is_valid(SCHEMA, body)

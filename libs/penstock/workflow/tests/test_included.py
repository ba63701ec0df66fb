"""Owns the examples of templates in files of their own."""

import hashlib
import os
from pathlib import Path

import pytest

from penstock.workflow.included import FILE_BYTES_MAX, FILES_MAX
from penstock.workflow.notation import load, read
from penstock.workflow.parts import ModelStep

WORKFLOW = """\
name: greet
input: {type: object, properties: {name: {type: string}}, required: [name]}
tiers: {small: [{pool: small, model: m}]}
do:
  id: greet
  model: small
  system: {file: prompts/system.md}
  examples:
    - user: {file: prompts/user.md}
      assistant: Hello.
  prompt: {file: prompts/greet.md}
"""
GREET = "Say hello to\n{{ input.name }}.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that WORKFLOW includes."""
    (tmp_path / "prompts").mkdir()
    for name, text in {"greet": GREET, "system": "Be kind.", "user": "Greet {{ input.name }}."}.items():
        (tmp_path / "prompts" / f"{name}.md").write_text(text)
    return tmp_path


def said(folder: Path, text: str = WORKFLOW) -> list[str]:
    """The faults of a definition in a folder."""
    return [str(fault) for fault in read(text, folder).faults]


def test_a_file_stands_for_its_text_and_is_remembered_by_its_hash(folder: Path) -> None:
    # given a definition that includes three files, when it is loaded
    definition = load(WORKFLOW, folder)

    # then it holds their texts, and says what they were
    step = definition.do
    assert isinstance(step, ModelStep)
    assert (step.prompt, step.system, step.examples[0].user) == (GREET, "Be kind.", "Greet {{ input.name }}.")
    assert set(definition.sources) == {"prompts/greet.md", "prompts/system.md", "prompts/user.md"}
    assert definition.sources["prompts/greet.md"] == f"sha256:{hashlib.sha256(GREET.encode()).hexdigest()}"
    # and it can be read again anywhere
    assert load(definition.model_dump_json()) == definition


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("greet", "Hello\n\n{{ input.nam }}", "prompts/greet.md: line 3: $.do.prompt: `input` has no field `nam`"),
        ("greet", "Hello\n{{ nobody }}", "prompts/greet.md: line 2: $.do.prompt: nothing is called `nobody` here"),
        ("greet", "Hello\n{{ input.name | uper }}", "prompts/greet.md: line 2: $.do.prompt: `Hello {{ input.name |"),
        ("greet", "\n\n{{ 1 + }}", "prompts/greet.md: line 3: $.do.prompt: "),
        ("system", "{{ input.name.x }}", "prompts/system.md: line 1: $.do.system: `input.name` is a string"),
        ("user", "\n{{ input.x }}", "prompts/user.md: line 2: $.do.examples[0].user: `input` has no field `x`"),
    ],
)
def test_a_fault_in_a_file_names_that_file_and_its_line(folder: Path, file: str, text: str, says: str) -> None:
    (folder / "prompts" / f"{file}.md").write_text(text)

    assert any(fault.startswith(says) for fault in said(folder)), said(folder)


def test_a_fault_is_located_where_an_editor_finds_it(folder: Path) -> None:
    (folder / "prompts/greet.md").write_text("\n{{ x }}")

    (fault,) = read(WORKFLOW, folder).faults

    assert fault.located(Path("flows/greet.yaml")).startswith("flows/prompts/greet.md:2: $.do.prompt: nothing")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("prompts/none.md", "`prompts/none.md` cannot be read: there is no such file"),
        ("../outside.md", "`../outside.md` cannot be read: it lies outside of the definition's folder"),
        ("/etc/passwd", "cannot be read: it lies outside of the definition's folder"),
        ("linked.md", "`linked.md` cannot be read: it lies outside of the definition's folder"),
        ("prompts", "`prompts` cannot be read: it is not a plain file"),
        ("pipe", "`pipe` cannot be read: it is not a plain file"),
        ("large.md", f"it has more than {FILE_BYTES_MAX} bytes"),
        ("binary.md", "`binary.md` is not UTF-8"),
        ('"a\\0b"', "cannot be read: "),
        ("[1]", "a file is named by text"),
    ],
)
def test_what_cannot_be_included_is_a_fault_at_its_line(folder: Path, name: str, says: str) -> None:
    # given files that must not be read: outside, too large, no text, no end
    (folder.parent / "outside.md").write_text("secret")
    (folder / "linked.md").symlink_to(folder.parent / "outside.md")
    os.mkfifo(folder / "pipe")
    (folder / "large.md").write_text("x" * (FILE_BYTES_MAX + 1))
    (folder / "binary.md").write_bytes(b"\xff")

    (fault,) = said(folder, WORKFLOW.replace("prompts/greet.md", name))

    assert fault.startswith("line 11: $.do.prompt.file: ")
    assert says in fault


def test_without_a_folder_no_file_is_read() -> None:
    """Guard: a definition that comes over the network names no files of the machine that checks it."""
    faults = [str(fault) for fault in read(WORKFLOW).faults]

    assert len(faults) == 3
    assert all("files are read where a definition is itself read from a file" in fault for fault in faults)


def test_what_is_the_authors_own_json_is_left_alone(folder: Path) -> None:
    text = """\
name: own
do: {id: work, task: a.b, input: {prompt: {file: prompts/greet.md}}}
"""
    definition = load(text, folder)

    assert definition.do.input == {"prompt": {"file": "prompts/greet.md"}}  # type: ignore[union-attr]  # a task
    assert definition.sources == {}


def test_the_number_of_files_is_bounded(folder: Path) -> None:
    steps = []
    for number in range(FILES_MAX + 1):
        (folder / f"{number}.md").write_text("x")
        steps.append(f"{{id: s{number}, model: small, prompt: {{file: {number}.md}}}}")
    chains = [", ".join(steps[:200]), ", ".join(steps[200:])]
    inner = ", ".join(f"{{id: c{number}, chain: [{chain}]}}" for number, chain in enumerate(chains))
    text = f"name: many\ntiers: {{small: [{{pool: small, model: m}}]}}\ndo: {{id: main, chain: [{inner}]}}\n"

    (fault,) = said(folder, text)

    assert f"more than {FILES_MAX} files" in fault


def test_a_file_that_is_too_long_for_a_prompt_is_a_fault(folder: Path) -> None:
    (folder / "prompts/greet.md").write_text("x" * 70_000)

    assert "at most 65536" in said(folder)[0]

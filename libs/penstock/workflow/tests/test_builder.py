"""Owns the promise that YAML, Python and definitions say the same, and can be turned into one another."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.testkit.builders import a_definition, a_task
from penstock.testkit.drawn import sound_definitions
from penstock.workflow import builder as w
from penstock.workflow.definition import Definition
from penstock.workflow.editor import every_part
from penstock.workflow.notation import NotationError, load, parse, values
from penstock.workflow.parts import Leaf

ROOT = Path(__file__).parents[4]


def examples() -> list[Any]:
    """Every definition that people are shown."""
    found = [
        pytest.param(file.read_text(), file.parent, id=file.name)
        for file in sorted((ROOT / "examples").rglob("*.yaml"))
        if re.search(r"^do:", file.read_text(), re.MULTILINE)
    ]
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)):
            if re.search(r"^do:", text, re.MULTILINE):
                found.append(pytest.param(text, None, id=f"{document.name}-{number}"))
    return found


def built(code: str) -> Definition:
    """What generated Python builds."""
    names: dict[str, Any] = {}
    exec(code, names)
    definition: Definition = names["definition"]
    return definition


@pytest.mark.parametrize(("text", "folder"), examples())
def test_a_definition_goes_through_yaml_and_python_unchanged(text: str, folder: Path | None) -> None:
    definition = load(text, folder)

    assert load(w.to_yaml(definition)) == definition
    assert built(w.to_python(definition)) == definition
    # and what was written back says no more than was said
    assert len(w.to_yaml(definition)) < 2 * len(text) + sum(map(len, definition.sources.values())) + 20_000


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
LOOKALIKES = st.sampled_from(
    [
        "",
        " ",
        "~",
        "null",
        "true",
        "yes",
        "on",
        "1",
        "010",
        "1e5",
        "+.5",
        "2026-01-01",
        "1:30",
        "a: b",
        "- a",
        "#",
        "{x}",
    ]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | LOOKALIKES
JSON = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(JSON, TEXTS.filter(lambda text: "{{" not in text and "{%" not in text and "{#" not in text))
def test_any_value_comes_back_as_it_was(value: Any, text: str) -> None:
    definition = a_definition(a_task("work", input={"value": value}), description=text)

    body, _ = values(w.to_yaml(definition))

    assert Definition.model_validate(body) == definition
    assert repr(body["do"]["input"]) == repr({"value": value})
    assert built(w.to_python(definition)) == definition


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(sound_definitions())
def test_any_definition_goes_through_yaml_python_and_publication_unchanged(definition: Definition) -> None:
    assert load(w.to_yaml(definition)) == definition
    # as `penstock publish` sends one that includes files
    assert parse(json.loads(definition.model_dump_json(exclude_defaults=True))).definition == definition
    assert built(w.to_python(definition)) == definition


def test_what_is_built_is_what_is_written() -> None:
    # given a workflow, built and written
    built_one = w.workflow(
        name="greet",
        input=w.object_of(name={"type": "string"}),
        tiers={"small": [w.tier_route(pool="small", model="m")]},
        do=w.chain(
            id="main",
            chain=[
                w.model(id="say", model="small", prompt="Say hello to {{ input.name }}.", retry=w.retry(attempts=2)),
                w.route(
                    id="way",
                    route=[w.case(case="long", when="say | length > 9", do=w.task(id="cut", task="texts.cut"))],
                ),
                w.parallel(id="each", parallel=w.map_of(map="[1, 2]", do=w.tool(id="one", tool="files.write"))),
            ],
        ),
    )
    text = """\
name: greet
input:
  type: object
  properties:
    name:
      type: string
  required:
  - name
  additionalProperties: false
tiers:
  small:
  - pool: small
    model: m
do:
  id: main
  chain:
  - id: say
    model: small
    prompt: Say hello to {{ input.name }}.
    retry:
      attempts: 2
  - id: way
    route:
    - case: long
      when: say | length > 9
      do:
        id: cut
        task: texts.cut
  - id: each
    parallel:
      map: '[1, 2]'
      do:
        id: one
        tool: files.write
"""

    # then they are the same, and read well
    assert w.sound(built_one) == load(text)
    assert w.to_yaml(built_one) == text
    assert built(w.to_python(built_one)) == built_one


def test_a_fault_is_found_when_it_is_built() -> None:
    with pytest.raises(NotationError, match="nothing is called `inptu` here"):
        w.sound(w.workflow(name="greet", do=w.task(id="say", task="a.b", input="{{ inptu }}")))
    # and by a type checker before that: without the ignore, this line is an error of its own
    with pytest.raises(ValidationError, match="promt"):
        w.model(id="say", model="small", promt="Hello.")  # type: ignore[call-arg]  # misspelled


def test_every_part_of_a_definition_has_a_word() -> None:
    assert {part.__name__ for part in every_part()} - {part.__name__ for part in w.WORDS} == {Leaf.__name__}
    assert sorted(w.__all__) == sorted({*w.WORDS.values(), "object_of", "sound", "to_python", "to_yaml"})


def test_the_example_in_the_docstring_is_sound() -> None:
    code = re.search(r"\n\n((?:    .*\n|\n)+)", w.__doc__ or "")
    assert code is not None

    exec(re.sub(r"^    ", "", code[1], flags=re.MULTILINE), {})

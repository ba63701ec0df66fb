"""What differs between two versions, in words, and whether inputs that fitted still do."""

from typing import Any

import pytest

from penstock.testkit.builders import a_chain, a_definition, a_model, a_task
from penstock.workflow.differences import differences, input_breaks

TEXT = {"type": "string"}


def test_what_changed_is_said_in_words_block_by_block() -> None:
    # Given two versions of a workflow
    inner = {"id": "each", "parallel": {"map": "input.items", "do": a_task("read")}}
    old = a_definition(a_chain(inner, a_model("say", max_tokens=64), a_task("old_end")), deadline_seconds=60)
    wider = {"id": "each", "parallel": {"map": "input.items", "max_concurrency": 4, "do": a_task("fetch")}}
    new = a_definition(
        a_chain(wider, a_model("say", prompt="Say more.", retry={"attempts": 5}), a_task("read")),
        version="2",
        description="Says more.",
    )

    # When they are compared, then everything is named once, with what it was
    assert differences(old, new) == [
        "deadline_seconds is gone, it was 60.0",
        "description is new: Says more.",
        "task `old_end` is gone from `main`",
        "task `fetch` is new in `each`",
        "`main`: chain changed from `each`, `say`, `old_end` to `each`, `say`, `read`",
        "`each`: parallel.do changed from `read` to `fetch`",
        "`each`: parallel.max_concurrency is new: 4",
        "`say`: max_tokens is gone, it was 64",
        "`say`: prompt changed from Say something. to Say more.",
        "`say`: retry is new: {'attempts': 5}",
        "`read` moved from `each` to `main`",
    ]


def test_the_same_content_under_another_version_differs_in_nothing() -> None:
    assert differences(a_definition(version="1"), a_definition(version="2")) == []


def test_a_block_of_another_kind_is_one() -> None:
    assert differences(a_definition(a_task("work")), a_definition(a_model("work"))) == [
        "`work` is a model, it was a task"
    ]


def of(schema: dict[str, Any]) -> Any:
    """A workflow with this input."""
    return a_definition(input=schema)


def of_fields(*required: str, **fields: Any) -> Any:
    """A workflow whose input is an object."""
    return of({"type": "object", "properties": fields, "required": list(required)})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (of_fields("a", a=TEXT), of_fields("a", a=TEXT, b=TEXT), []),
        (of_fields("a", a=TEXT), of_fields(a={"type": "string", "title": "A"}), []),
        (of_fields("a", a=TEXT), of_fields("a", "b", a=TEXT, b=TEXT), ["b: added as required"]),
        (of_fields(a=TEXT), of_fields(a={"type": "integer"}), ["a: type changed from string to integer"]),
        (of_fields(a={"enum": ["x", "y"]}), of_fields(a={"enum": ["x"]}), ["a: value 'y' removed"]),
        (of_fields(a={"enum": ["x"]}), of_fields(a={"enum": ["x", "y"]}), []),
        (of({}), of_fields("a", a=TEXT), ["input: type changed from anything to object", "a: added as required"]),
        (of_fields(a=TEXT), of({}), []),
        (of({"type": "object"}), of({"type": "object", "required": ["a"]}), ["a: required now"]),
        (
            of({"$defs": {"x": TEXT}, "type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}}),
            of({"$defs": {"x": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}}),
            ["some inputs that fitted are refused"],
        ),
        (of({"properties": {"a": True}}), of({"properties": {"a": TEXT}}), ["the two schemas of the input cannot be"]),
    ],
)
def test_inputs_that_would_be_refused_are_told(old: Any, new: Any, said: list[str]) -> None:
    found = input_breaks(old, new)

    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))

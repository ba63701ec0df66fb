"""Owns the examples of what a task takes, held against what a workflow gives it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from penstock.testkit.builders import a_chain, a_definition, a_task
from penstock.testkit.drawn import fitting, objects
from penstock.workflow.checks import check
from penstock.workflow.fitting import misfits
from penstock.workflow.schemas import compile_schema
from penstock.workflow.shapes import constant
from penstock.workflow.task import Task

ADDRESS = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}


@pytest.mark.parametrize(
    ("value", "schema", "says"),
    [
        ({"type": "string"}, {"type": "integer"}, ["`input` is string; what is needed is integer"]),
        ({"type": ["string", "null"]}, {"type": "string"}, ["`input` may be null; what is needed is string"]),
        ({"type": "integer"}, {"type": "number"}, []),
        ({"type": "string"}, {"type": ["string", "null"]}, []),
        (constant("a"), {"enum": ["b", "c"]}, ["`input` is 'a'; what is needed is 'b' or 'c'"]),
        (constant("b"), {"enum": ["b", "c"]}, []),
        (constant("7"), {"type": "integer"}, []),
        (constant({"to": "a", "cc": 1}), ADDRESS, []),
        (constant({"to": 1}), ADDRESS, ["`input.to` is 1; what is needed is string"]),
        (constant({}), ADDRESS, ["`input` has no field `to`, which is needed"]),
        (
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": ADDRESS},
            ["`input[0]` is string; what is needed is object"],
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": ADDRESS}}, {"$ref": "#/$defs/b", "$defs": {"b": ADDRESS}}, []),
        (None, ADDRESS, []),
        ({"type": "string"}, {}, []),
        (ADDRESS, {"anyOf": [ADDRESS, {"type": "null"}]}, []),
    ],
)
def test_what_misses_a_schema_is_named(value: Any, schema: dict[str, Any], says: list[str]) -> None:
    assert [message for _, message, _ in misfits(value, schema)] == says


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(objects(), objects(), st.data())
def test_a_value_whose_shape_fits_fits(value: dict[str, Any], schema: dict[str, Any], data: st.DataObject) -> None:
    """Types and fields are held against each other; an enum or a bound that any text may miss is not."""
    plain = _without_values(schema)
    if not list(misfits(value, plain)):
        compiled = compile_schema(plain)
        assert compiled is not None
        assert compiled.fault(data.draw(fitting(value))) is None


def _without_values(schema: Any) -> Any:
    match schema:
        case {"enum": _}:
            return {"type": "string"}
        case dict():
            return {name: _without_values(inner) for name, inner in schema.items() if name != "minItems"}
        case list():
            return [_without_values(inner) for inner in schema]
        case _:
            return schema


def test_a_tree_fits_a_tree() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}}
    shape = {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}

    assert list(misfits(shape, shape)) == []


class Letter(BaseModel):
    to: str
    copies: int = 1


def send(letter: Letter) -> Letter: ...  # type: ignore[empty-body]  # only its annotations matter


def test_a_step_is_held_to_what_its_task_takes_and_gives() -> None:
    # given a task, as a worker registers it
    tasks = {"tasks.send": Task("tasks.send", send).signature()}

    # then its output is known to the steps after it, and its input is checked
    sound = a_chain(
        a_task("send", input={"to": "ada"}), a_task("again", task="tasks.send", input={"to": "{{ send.to }}"})
    )
    assert check(a_definition(sound), tasks=tasks) == []
    broken = a_chain(a_task("send", input={"too": "ada"}), output="{{ send.form }}")
    assert [(fault.path, fault.message) for fault in check(a_definition(broken), tasks=tasks)] == [
        ("$.do.chain[0].input", "the task `tasks.send` refuses this: `input` has no field `to`, which is needed"),
        ("$.do.output", "`send` has no field `form` in its schema"),
    ]
    # and without them nothing is said of either
    assert check(a_definition(broken)) == []

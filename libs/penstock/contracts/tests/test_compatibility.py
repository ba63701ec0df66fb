"""Owns the promise that a breaking edit of a schema is seen and named, and that an additive one passes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from penstock.contracts.compatibility import Order, acceptable, breaks, report, verdict
from penstock.contracts.schema import Schema
from penstock.contracts.topics import RUN_FINISHED, RUN_SIGNALLED, TASK_COMPLETED

BASE: Schema = {
    "title": "Sample",
    "description": "As it was.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 63},
        "count": {"type": "integer", "minimum": 0, "default": 0},
        "ratio": {"type": "number", "maximum": 1},
        "phase": {"type": "string", "enum": ["waiting", "completed"]},
        "output": {},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"maxLength": 63}},
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"step": {"type": "string"}, "error": {"type": "string"}},
                "required": ["step"],
                "additionalProperties": False,
            },
        },
        "usage": {
            "type": "object",
            "properties": {"tokens": {"type": "integer", "default": 0}},
            "default": {"tokens": 0},
            "additionalProperties": False,
        },
    },
    "required": ["id", "phase"],
    "if": {"properties": {"phase": {"const": "completed"}}},
    "then": {"required": ["output"]},
    "additionalProperties": False,
}

Edit = Callable[[dict[str, Any]], object]


def edited(*edits: Edit) -> Schema:
    schema = copy.deepcopy(BASE)
    for edit in edits:
        edit(schema)
    return schema


def field(name: str, **schema: object) -> Edit:
    return lambda root: root["properties"].update({name: schema})


def within(name: str, **changes: object) -> Edit:
    return lambda root: root["properties"][name].update(changes)


def without(name: str, *keywords: str) -> Edit:
    return lambda root: [root["properties"][name].pop(keyword) for keyword in keywords]


def gone(name: str) -> Edit:
    return lambda root: root["properties"].pop(name)


def required(*names: str) -> Edit:
    return lambda root: root.update(required=list(names))


def item(**changes: object) -> Edit:
    return lambda root: root["properties"]["steps"]["items"].update(changes)


ADDITIVE: dict[str, list[Edit]] = {
    "nothing": [],
    "another description": [lambda root: root.update(description="As it is."), within("id", description="An id.")],
    "another order": [lambda root: root.update(properties=dict(reversed(root["properties"].items())))],
    "an optional field": [field("region", type="string")],
    "an optional field with a default": [field("retries", type="integer", default=3)],
    "an optional object": [
        field("cost", type="object", properties={"amount": {"type": "string"}}, required=["amount"])
    ],
    "an optional field of an item": [item(properties={**BASE["properties"]["steps"]["items"]["properties"], "at": {}})],
    "a counter within a default": [
        within(
            "usage",
            properties={"tokens": {"type": "integer", "default": 0}, "calls": {"type": "integer", "default": 0}},
            default={"tokens": 0, "calls": 0},
        )
    ],
}

NEW = Order.PRODUCERS_FIRST
"""New readers refuse old messages."""
OLD = Order.CONSUMERS_FIRST
"""Old readers refuse new messages."""
NONE = Order.NONE

BREAKING: dict[str, tuple[list[Edit], str, str, Order]] = {
    "a required field": ([field("at", type="string"), required("id", "phase", "at")], "at", "added as required", NEW),
    "required now": ([required("id", "phase", "name")], "name", "required now", NEW),
    "no longer required": ([required("id")], "phase", "no longer required", OLD),
    "an optional field removed": ([gone("ratio")], "ratio", "removed", NONE),
    "a required field removed": ([gone("id"), required("phase")], "id", "removed", NONE),
    "a field renamed": ([gone("ratio"), field("share", type="number", maximum=1)], "ratio", "renamed to `share`", NONE),
    "a required field renamed": (
        [gone("id"), field("key", type="string", format="uuid"), required("key", "phase")],
        "id",
        "renamed to `key`",
        NONE,
    ),
    "a value added": ([within("phase", enum=["waiting", "completed", "paused"])], "phase", "'paused' added", OLD),
    "a value removed": ([within("phase", enum=["completed"])], "phase", "'waiting' removed", NEW),
    "a value renamed": ([within("phase", enum=["waiting", "done"])], "phase", "'done' added", NONE),
    "any value": ([without("phase", "enum")], "phase", "any value now", OLD),
    "a list of values": ([within("name", enum=["a"])], "name", "a list of values now", NEW),
    "another type": ([field("count", type="string", default=0)], "count", "type changed", NONE),
    "a wider type": ([within("count", type="number")], "count", "type changed from integer", OLD),
    "a narrower type": ([within("ratio", type="integer")], "ratio", "type changed", NEW),
    "null as well": ([within("name", type=["string", "null"])], "name", "null or string", OLD),
    "anything narrowed": ([field("output", type="object")], "output", "from anything to object", NEW),
    "anything where there was text": ([field("id")], "id", "to anything", NONE),
    "a new pattern": ([within("name", pattern="^[a-z-]+$")], "name", "pattern changed", NONE),
    "a pattern gone": ([without("name", "pattern")], "name", 'pattern "^[a-z]+$" is gone', NONE),
    "another format": ([within("id", format="date-time")], "id", "format changed", NONE),
    "a shorter maximum": ([within("name", maxLength=10)], "name", "maxLength changed", NEW),
    "a longer maximum": ([within("name", maxLength=100)], "name", "maxLength changed", OLD),
    "no maximum": ([without("name", "maxLength")], "name", "maxLength 63 is gone", OLD),
    "a higher minimum": ([within("count", minimum=1)], "count", "minimum changed", NEW),
    "a lower minimum": ([within("count", minimum=-1)], "count", "minimum changed", OLD),
    "a new minimum": ([within("ratio", minimum=0)], "ratio", "minimum 0 is new", NEW),
    "another default": ([within("count", default=1)], "count", "another default", NONE),
    "a default within a default": (
        [within("usage", properties={"tokens": {"type": "integer", "default": 1}}, default={"tokens": 1})],
        "usage.tokens",
        "another default",
        NONE,
    ),
    "an item's field removed": ([item(properties={"step": {"type": "string"}})], "steps[].error", "removed", NONE),
    "an item's field required": ([item(required=["step", "error"])], "steps[].error", "required now", NEW),
    "an item's type": ([within("steps", items={"type": "string"})], "steps[]", "type changed", NONE),
    "a free key's type": ([within("labels", additionalProperties={"type": "integer"})], "labels{}", "type", NONE),
    "a free key's length": ([within("labels", propertyNames={"maxLength": 10})], "labels{key}", "maxLength", NEW),
    "an object opened": ([lambda root: root.update(additionalProperties=True)], "", "additionalProperties", NONE),
    "another condition": ([lambda root: root.update(then={"required": ["output", "name"]})], "", "then changed", NONE),
    "a condition gone": ([lambda root: root.pop("if")], "", "if", NONE),
    "a number in steps": ([within("ratio", multipleOf=0.5)], "ratio", "multipleOf", NONE),
}  # fmt: skip  # a table reads better in rows


@pytest.mark.parametrize("edits", ADDITIVE.values(), ids=ADDITIVE)
def test_an_additive_edit_passes(edits: list[Edit]) -> None:
    assert breaks(BASE, edited(*edits)) == []


@pytest.mark.parametrize(("edits", "path", "what", "order"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_edit_is_named_with_its_place_and_order(
    edits: list[Edit], path: str, what: str, order: Order
) -> None:
    found = breaks(BASE, edited(*edits))

    assert any(item.path == path and what in item.what for item in found), found
    assert verdict(found) is order


def test_a_field_is_not_taken_away_again() -> None:
    assert [item.path for item in breaks(edited(field("region", type="string")), BASE)] == ["region"]


def test_jsoncompat_sees_what_has_no_rule_of_its_own() -> None:
    old = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "string"}}}}
    new = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "integer"}}}}

    assert {item.order for item in breaks(old, new)} == {Order.CONSUMERS_FIRST, Order.PRODUCERS_FIRST}


def test_the_report_names_both_sides_and_the_order() -> None:
    added = breaks(BASE, edited(within("phase", enum=["waiting", "completed", "paused"])))

    said = report(TASK_COMPLETED, "1.4", added)

    assert "penstock.task.completed.v1: not compatible with version 1.4" in said
    assert "phase: value 'paused' added" in said
    assert "consumers first (orchestrator), then producers (worker)" in said
    assert "--consumers-first" in said
    assert acceptable(TASK_COMPLETED, added)


def test_nobody_orders_other_teams_to_deploy() -> None:
    added = breaks(BASE, edited(within("phase", enum=["waiting", "completed", "paused"])))

    said = report(RUN_FINISHED, "1.0", added)

    assert "nobody can order downstream to deploy" in said
    assert not acceptable(RUN_FINISHED, added)


def test_what_old_messages_cannot_satisfy_is_never_acceptable() -> None:
    found = breaks(BASE, edited(required("id", "phase", "name")))

    said = report(RUN_SIGNALLED, "1.0", found)

    assert "producers first (gateway, orchestrator, upstream), then consumers (orchestrator)" in said
    assert "messages already on the topic stay" in said
    assert not acceptable(RUN_SIGNALLED, found)


def test_a_rename_has_no_safe_order() -> None:
    found = breaks(BASE, edited(*BREAKING["a field renamed"][0]))

    assert "deploy order: none is safe" in report(RUN_SIGNALLED, "1.0", found)

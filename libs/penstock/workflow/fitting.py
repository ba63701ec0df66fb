"""Owns whether a value that is known by its shape fits a schema, before there is a value."""

from collections.abc import Iterator
from typing import Any, Final

from penstock.workflow.faults import nearest
from penstock.workflow.shapes import Found, Shape, alternatives, item_of, look_up, said, types_of

DEPTH_MAX: Final = 16
"""Levels of a value that are looked at: what refers to itself has no end."""
Misfit = tuple[tuple[str, ...], str, str]
"""Where in the value, what is wrong there, and what to do about it."""


def misfits(value: Shape, schema: Shape, at: str = "input") -> Iterator[Misfit]:
    """What of a value can miss a schema; nothing where nothing is known about one of them."""
    yield from _misfits(value, schema, at, ())


def _misfits(value: Shape, schema: Shape, at: str, path: tuple[str, ...]) -> Iterator[Misfit]:
    allowed = alternatives(schema)
    if not allowed or at.count(".") + at.count("[") > DEPTH_MAX:
        return
    for one in alternatives(value) or ():
        taking = [each for each in allowed if _takes(each, one)]
        if not taking:
            certain = len(types_of(value)) == 1
            verb = "is" if certain else "may be"
            hint = "guard it: `| default(…, true)`" if one["type"] == "null" and not certain else ""
            yield path, f"`{at}` {verb} {_kind(one)}; what is needed is {_needed(allowed)}", hint
        elif len(taking) == 1:
            yield from _inside(one, taking[0], at, path)


def _inside(one: dict[str, Any], taking: dict[str, Any], at: str, path: tuple[str, ...]) -> Iterator[Misfit]:
    if one["type"] == "array":
        yield from _misfits(item_of(one), item_of(taking), f"{at}[0]", path)
    if one["type"] != "object":
        return
    properties = taking.get("properties", {})
    for name in taking.get("required", []):
        found = look_up(one, at, name)
        if not isinstance(found, Found):
            yield path, f"`{at}` has no field `{name}`, which is needed", ""
        elif found.absent:
            yield path, f"`{at}.{name}` is needed and may be absent", found.hint
    for name, inner in one.get("properties", {}).items():
        if name in properties:
            yield from _misfits(
                _with_definitions(inner, one),
                _with_definitions(properties[name], taking),
                f"{at}.{name}",
                (*path, name),
            )
        elif taking.get("additionalProperties") is False:
            yield (*path, name), f"`{at}` takes no field `{name}`", nearest(name, properties, "fields")


def _takes(each: dict[str, Any], one: dict[str, Any]) -> bool:
    """Whether a value of one type can be one of another, in what a task makes of its input: `7` of `"7"`."""
    have, need = one["type"], each["type"]
    if have in ("integer", "number") and need in ("integer", "number"):
        return True
    if have == "string" and need in ("integer", "number") and "enum" in one:
        return all(_is_number(text) for text in one["enum"])
    if have != need:
        return False
    return "enum" not in each or "enum" not in one or set(map(repr, one["enum"])) <= set(map(repr, each["enum"]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _kind(one: dict[str, Any]) -> str:
    listed = one.get("enum")
    return one["type"] if not listed or one["type"] == "null" else " or ".join(map(repr, listed[:6]))


def _needed(allowed: tuple[dict[str, Any], ...]) -> str:
    listed = [repr(value) for each in allowed for value in each.get("enum", [])]
    return " or ".join(listed[:12]) if listed else said({"anyOf": list(allowed)})


def _with_definitions(inner: Any, outer: dict[str, Any]) -> Shape:
    if not isinstance(inner, dict):
        return None
    return {**inner, "$defs": outer["$defs"]} if "$defs" in outer and "$defs" not in inner else inner

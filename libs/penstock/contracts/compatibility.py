"""Owns the rule of change: within a major version every old message stays readable, and so does every new one.

Two promises are compared for each pair of versions. What old writers put on the topic, new readers accept, because
a topic keeps messages for days. What new writers put there, old readers accept, because no two services are deployed
at the same instant. `jsoncompat` decides about inclusion; the rules below name the place, and see what it cannot see:
a rename, a removal, a changed pattern, format or default.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jsoncompat

from penstock.contracts.messages import Message
from penstock.contracts.schema import Schema, bare, closed, opened
from penstock.contracts.topics import Service, Topic


class Order(StrEnum):
    """Which side would have to be deployed first for a change to hurt nobody."""

    CONSUMERS_FIRST = "consumers first"
    """Readers of the old version refuse new messages."""
    PRODUCERS_FIRST = "producers first"
    """Readers of the new version refuse old messages."""
    NONE = "no order"
    """Both, or the meaning changed unseen."""


@dataclass(frozen=True, slots=True)
class Break:
    """One change that breaks a promise, at the dotted path of a field."""

    path: str
    what: str
    order: Order


_EXTERNAL = frozenset({Service.UPSTREAM, Service.DOWNSTREAM})
_MINIMA = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MAXIMA = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EQUAL = (
    "pattern",
    "format",
    "const",
    "multipleOf",
    "uniqueItems",
    "if",
    "then",
    "else",
    "not",
    "anyOf",
    "oneOf",
    "allOf",
)
_MISSING = object()


def breaks(old: Schema, new: Schema) -> list[Break]:
    """Everything that the step from one writer's schema to another breaks; empty where all of it is additive."""
    old, new = bare(old), bare(new)
    found = list(_compare(old, new, ""))
    seen = {found_break.order for found_break in found}
    if Order.NONE not in seen:
        found += [
            Break("", f"jsoncompat finds messages that {who} refuse", order)
            for order, who, compatible in (
                (Order.CONSUMERS_FIRST, "readers of the old version", _included(new, old)),
                (Order.PRODUCERS_FIRST, "readers of the new version", _included(old, new)),
            )
            if not compatible and order not in seen
        ]
    return found


def fits(written: Schema, read: Schema) -> bool:
    """Whether one schema accepts all that another's writers write, who use no field that theirs does not name."""
    reader, writer = json.dumps(_countable(bare(read))), json.dumps(_countable(closed(bare(written))))
    return bool(jsoncompat.check_compat(reader, writer, "serializer"))


def verdict(found: list[Break]) -> Order:
    """The one order that makes all of these changes harmless, if there is one."""
    orders = {found_break.order for found_break in found}
    return orders.pop() if len(orders) == 1 else Order.NONE


def report(topic: Topic[Message], version: str, found: list[Break]) -> str:
    """What broke against which version, and what can be done about it, for people."""
    lines = [f"{topic.name}: not compatible with version {version}"]
    lines += [f"  {item.path or '(message)'}: {item.what} [{item.order}]" for item in found]
    producers, consumers = _names(topic.producers), _names(topic.consumers)
    outside = _names(topic.consumers & _EXTERNAL)
    match verdict(found):
        case Order.CONSUMERS_FIRST if not outside:
            lines += [
                f"  deploy order: consumers first ({consumers}), then producers ({producers})",
                "  keep it with: python -m penstock.contracts.generate --consumers-first",
            ]
        case Order.CONSUMERS_FIRST:
            lines += [
                f"  deploy order: consumers first ({consumers}), then producers ({producers}),",
                f"  but nobody can order {outside} to deploy: add a field instead, or begin a new major version",
            ]
        case Order.PRODUCERS_FIRST:
            lines += [
                f"  deploy order: producers first ({producers}), then consumers ({consumers}),",
                "  but messages already on the topic stay: give the field a default, or begin a new major version",
            ]
        case Order.NONE:
            lines += ["  deploy order: none is safe; add a new field beside the old one, or begin a new major version"]
    return "\n".join(lines)


def acceptable(topic: Topic[Message], found: list[Break]) -> bool:
    """Whether deploying the consumers first is enough, and all of them are ours to deploy."""
    return verdict(found) is Order.CONSUMERS_FIRST and not topic.consumers & _EXTERNAL


def _names(services: frozenset[Service]) -> str:
    return ", ".join(sorted(services))


def _included(written: Schema, read: Schema) -> bool:
    """Whether every message of one version's writers is a message to the other version's readers."""
    reader, writer = json.dumps(_countable(opened(read))), json.dumps(_countable(written))
    return bool(jsoncompat.check_compat(reader, writer, "serializer"))


def _countable(schema: Mapping[str, Any]) -> Schema:
    """Without conditions, which are compared word for word: jsoncompat takes every condition for a difference."""
    return {name: part for name, part in schema.items() if name not in ("if", "then", "else", "not")}


def _compare(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Break]:
    yield from _compare_type(old, new, path)
    yield from _compare_enum(old, new, path)
    yield from _compare_bounds(old, new, path)
    for keyword in _EQUAL:
        before, after = old.get(keyword, _MISSING), new.get(keyword, _MISSING)
        if before != after:
            yield Break(path, _changed(keyword, before, after), Order.NONE)
    yield from _compare_fields(old, new, path)
    for keyword, place in (("items", "[]"), ("additionalProperties", "{}"), ("propertyNames", "{key}")):
        before, after = old.get(keyword, {}), new.get(keyword, {})
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _compare(before, after, path + place)
        else:
            yield Break(path, _changed(keyword, before, after), Order.NONE)


def _compare_fields(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Break]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
    added = [name for name in after if name not in before]
    for name in before:
        place = f"{path}.{name}" if path else name
        if name not in after:
            twins = [other for other in added if _same_shape(before[name], after[other])]
            renamed = f", perhaps renamed to `{twins[0]}`" if twins else ""
            yield Break(place, f"removed{renamed}: readers that rely on it find nothing", Order.NONE)
            continue
        if name in required_before - required_after:
            yield Break(place, "no longer required: writers may leave out what readers need", Order.CONSUMERS_FIRST)
        if name in required_after - required_before:
            yield Break(place, "required now: messages without it are refused", Order.PRODUCERS_FIRST)
        elif name not in required_before and not _kept(before[name].get("default"), after[name].get("default")):
            yield Break(place, "another default: what is left out means something else", Order.NONE)
        yield from _compare(before[name], after[name], place)
    for name in added:
        if name in required_after:
            place = f"{path}.{name}" if path else name
            yield Break(place, "added as required: messages without it are refused", Order.PRODUCERS_FIRST)


def _compare_type(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Break]:
    before, after = _types(old), _types(new)
    if before == after:
        return
    what = f"type changed from {_listed(before)} to {_listed(after)}"
    if before > after:
        yield Break(path, what, Order.PRODUCERS_FIRST)
    elif after > before:
        yield Break(path, what, Order.CONSUMERS_FIRST)
    else:
        yield Break(path, what, Order.NONE)


def _compare_enum(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Break]:
    if "enum" not in old and "enum" not in new:
        return
    if "enum" not in new:
        yield Break(path, "any value now, where there was a list", Order.CONSUMERS_FIRST)
        return
    if "enum" not in old:
        yield Break(path, "a list of values now, where there was any", Order.PRODUCERS_FIRST)
        return
    for value in [value for value in old["enum"] if value not in new["enum"]]:
        yield Break(path, f"value {value!r} removed: messages that have it are refused", Order.PRODUCERS_FIRST)
    for value in [value for value in new["enum"] if value not in old["enum"]]:
        yield Break(path, f"value {value!r} added: readers do not know it", Order.CONSUMERS_FIRST)


def _compare_bounds(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Break]:
    for keyword, unbounded, sign in (
        *((keyword, float("-inf"), 1) for keyword in _MINIMA),
        *((keyword, float("inf"), -1) for keyword in _MAXIMA),
    ):
        before, after = old.get(keyword, unbounded), new.get(keyword, unbounded)
        if before != after:
            tighter = (after - before) * sign > 0
            order = Order.PRODUCERS_FIRST if tighter else Order.CONSUMERS_FIRST
            yield Break(path, _changed(keyword, old.get(keyword, _MISSING), new.get(keyword, _MISSING)), order)


def _kept(before: object, after: object) -> bool:
    """Whether a default still says what it said; an object's may say more."""
    if isinstance(before, dict) and isinstance(after, dict):
        return all(name in after and _kept(before[name], after[name]) for name in before)
    return before == after


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that the schema lets through; all of them where it says nothing."""
    if "anyOf" in schema:
        return frozenset[str]().union(*(_types(choice) for choice in schema["anyOf"]))
    named = schema.get("type", ["array", "boolean", "integer", "null", "number", "object", "string"])
    types = frozenset([named] if isinstance(named, str) else named)
    return types | {"integer"} if "number" in types else types


def _same_shape(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return next(_compare(one, other, ""), None) is None


def _listed(types: frozenset[str]) -> str:
    return "anything" if len(types) == 7 else " or ".join(sorted(types))


def _changed(keyword: str, before: object, after: object) -> str:
    if before is _MISSING:
        return f"{keyword} {json.dumps(after)} is new"
    if after is _MISSING:
        return f"{keyword} {json.dumps(before)} is gone"
    return f"{keyword} changed from {json.dumps(before)} to {json.dumps(after)}"

"""Owns what differs between two versions of a workflow, in words, and whether its callers' inputs still fit."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from penstock.contracts.compatibility import Order, breaks, fits
from penstock.workflow.checks import CHECKS
from penstock.workflow.definition import Definition, children, every_block
from penstock.workflow.graph import kind_of

VALUE_CHARACTERS_MAX: Final = 60
_OUTSIDE: Final = frozenset({"version", "do"})


def differences(old: Definition, new: Definition) -> list[str]:
    """What changed, the blocks last: what is gone, new, moved, and which fields of which block are others."""
    before, after = _plain(old), _plain(new)
    found = [
        line
        for name in sorted({*before, *after} - _OUTSIDE)
        for line in _changed(name, before.get(name), after.get(name))
    ]
    return [*found, *_blocks(old, new)]


def input_breaks(old: Definition, new: Definition) -> list[str]:
    """Why inputs that fitted the old version may not fit the new one; nothing: they all do."""
    if old.input == new.input:
        return []
    try:
        found, fitting = breaks(old.input, new.input), fits(old.input, new.input)
    except (AttributeError, TypeError, ValueError):
        return ["the two schemas of the input cannot be compared: look at them yourself"]
    # A caller writes, the workflow reads: what only readers of the old version would mind hurts nobody here.
    hurting = [
        f"{each.path or 'input'}: {each.what}"
        for each in found
        if each.order in (Order.PRODUCERS_FIRST, Order.NONE)
        and not each.what.startswith("jsoncompat")
        and not (fitting and each.what.startswith("removed"))
    ]
    # Fields that are required and described nowhere.
    undescribed = (
        {*new.input.get("required", ())} - {*old.input.get("required", ())} - {*new.input.get("properties", {})}
    )
    hurting += [f"{name}: required now: inputs without it are refused" for name in sorted(undescribed)]
    return hurting if hurting or fitting else ["some inputs that fitted are refused"]


def _plain(definition: Definition) -> dict[str, Any]:
    return definition.model_dump(mode="json", exclude_defaults=True)


def _blocks(old: Definition, new: Definition) -> Iterator[str]:
    before, after = _places(old), _places(new)
    for name, (where, body) in before.items():
        if name not in after:
            yield f"{body['kind']} `{name}` is gone from {where}"
    for name, (where, body) in after.items():
        if name not in before:
            yield f"{body['kind']} `{name}` is new in {where}"
    for name, (where, body) in after.items():
        if name not in before:
            continue
        was_where, was = before[name]
        if was_where != where:
            yield f"`{name}` moved from {was_where} to {where}"
        if was["kind"] != body["kind"]:
            yield f"`{name}` is a {body['kind']}, it was a {was['kind']}"
            continue
        for field in sorted({*was["fields"], *body["fields"]}):
            for line in _changed(field, was["fields"].get(field), body["fields"].get(field)):
                yield f"`{name}`: {line}"
    order = [name for name in before if name in after]
    if [name for name in after if name in before] != order and not _moved(before, after):
        yield "blocks stand in another order"


def _moved(before: Mapping[str, tuple[str, Any]], after: Mapping[str, tuple[str, Any]]) -> bool:
    return any(name in before and before[name][0] != where for name, (where, _) in after.items())


def _places(definition: Definition) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each block by its id: what it stands in, and what is its own and not its inner blocks'."""
    blocks = list(every_block(definition.do))
    parents = {child.id: block.id for block in blocks for child in children(block)}
    return {
        block.id: (
            f"`{parents[block.id]}`" if block.id in parents else "the workflow",
            {"kind": kind_of(block), "fields": {name: _own(value) for name, value in _given(block) if name != "id"}},
        )
        for block in blocks
    }


def _given(part: BaseModel) -> Iterator[tuple[str, Any]]:
    """The fields of a part that are not at their default."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if field.is_required() or value != field.get_default(call_default_factory=True):
            yield name, value


def _own(value: Any) -> Any:
    """A field's value as JSON, in which inner blocks are only named."""
    if type(value) in CHECKS:
        return f"`{value.id}`"
    if isinstance(value, BaseModel):
        return {name: _own(inner) for name, inner in _given(value)}
    if isinstance(value, dict):
        return {name: _own(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_own(inner) for inner in value]
    return value


def _changed(name: str, before: Any, after: Any) -> Iterator[str]:
    """How a field differs, as deep down as one of its parts does."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}, key=str):
            yield from _changed(f"{name}.{key}", before.get(key), after.get(key))
    elif before is None:
        yield f"{name} is new: {_short(after)}"
    elif after is None:
        yield f"{name} is gone, it was {_short(before)}"
    else:
        yield f"{name} changed from {_short(before)} to {_short(after)}"


def _short(value: Any) -> str:
    plain = isinstance(value, list) and all(isinstance(each, str) for each in value)
    text = ", ".join(value) if plain else str(value)
    text = " ".join(text.split())
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"

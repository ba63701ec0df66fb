"""Owns how a definition is written back: readable YAML, without what is at its default."""

from decimal import Decimal
from typing import Any, Final

import yaml

from penstock.workflow.definition import Definition
from penstock.workflow.notation import reads_scalars
from penstock.workflow.parts import Part

WIDTH_CHARACTERS: Final = 110


def to_yaml(definition: Definition) -> str:
    """YAML that reads back as the same definition."""
    text: str = yaml.dump(
        plain(definition),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=WIDTH_CHARACTERS,
    )
    return text


def plain(value: Any) -> Any:
    """A part of a definition as JSON values, in the order in which people write it."""
    match value:
        case Part():
            return {name: plain(item) for name, item in given(value).items()}
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case Decimal():
            return format(value, "f")
        case _:
            return value


def given(part: Part) -> dict[str, Any]:
    """The fields of a part that differ from their defaults: its id, what only its kind has, what it shares."""
    fields = type(part).model_fields
    own = [name for name in fields if name in type(part).__annotations__]
    order = dict.fromkeys([*(["id"] if "id" in fields else []), *own, *fields])
    return {name: getattr(part, name) for name in order if not _is_default(part, name)}


def _is_default(part: Part, name: str) -> bool:
    field = type(part).model_fields[name]
    if field.is_required():
        return False
    default = field.get_default(call_default_factory=True, validated_data={})
    value = getattr(part, name)
    # `0 == False` and `1 == 1.0`, but they are not written the same.
    return type(value) is type(default) and bool(value == default)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what our reader, or another one, would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # of no value, whichever it is
        """Every value is written out: a definition has no anchors."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style_of(value))


def style_of(value: str) -> str | None:
    """How a text is written so that it is read back: lines as lines, what YAML alone takes for a line's end escaped."""
    if any(mark in value for mark in "\x85\u2028\u2029"):
        return '"'
    return "|" if "\n" in value else None


reads_scalars(_Dumper)
_Dumper.add_representer(str, _text)

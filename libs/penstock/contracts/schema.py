"""Owns the JSON Schemas of the message models: closed for who writes, open for who reads, bare to compare.

Draft 7 without references, which AsyncAPI and the validators of all common languages read as it is.
"""

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from penstock.contracts import messages
from penstock.contracts.messages import Message
from penstock.contracts.topics import Topic

Schema = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"
ANNOTATIONS = frozenset({"$schema", "$id", "title", "description", "examples"})
"""Keywords that change nothing about which messages are valid."""

_ORDER = (
    "$schema",
    "$id",
    "title",
    "description",
    "type",
    "enum",
    "const",
    "properties",
    "required",
    "default",
    "if",
    "then",
    "else",
)
_SUBSCHEMAS = ("items", "additionalProperties", "propertyNames", "not", "if", "then", "else")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf")


class _WithoutFieldTitles(GenerateJsonSchema):
    """A field's name says it already."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # the signature is pydantic's
        return False


def entity(topic: Topic[Message]) -> str:
    """The topic's event type without its major version: the name of its folder."""
    return topic.event_type.rsplit(".", 1)[0]


def major(topic: Topic[Message]) -> str:
    """The topic's major version, `v1`."""
    return topic.event_type.rsplit(".", 1)[1]


def producer_schema(topic: Topic[Message]) -> Schema:
    """What a writer may put on the topic: nothing that the model does not name."""
    return {"$schema": DIALECT, "$id": _identity(topic, "producer"), **closed(_written(topic.message))}


def consumer_schema(topic: Topic[Message]) -> Schema:
    """What a reader has to expect on the topic: fields that it does not know yet are fine."""
    return {"$schema": DIALECT, "$id": _identity(topic, "consumer"), **_written(topic.message)}


def bare(schema: Mapping[str, Any]) -> Schema:
    """The schema without what only people read, so that a changed comment is not a new version."""
    kept = {name: value for name, value in schema.items() if name not in ANNOTATIONS}
    return _each_subschema(kept, bare)


def opened(schema: Mapping[str, Any]) -> Schema:
    """The reader's form of a writer's schema."""
    kept = {name: value for name, value in schema.items() if not (name == "additionalProperties" and value is False)}
    return _each_subschema(kept, opened)


def _identity(topic: Topic[Message], role: str) -> str:
    return f"urn:penstock:schema:{entity(topic)}:{major(topic)}:{role}"


@cache
def _written(model: type[Message]) -> Schema:
    generated = model.model_json_schema(mode="validation", schema_generator=_WithoutFieldTitles)
    definitions = generated.pop("$defs", {})
    _describe(generated, model)
    for name, definition in definitions.items():
        _describe(definition, getattr(messages, name))
    return _plain(_inlined(generated, definitions))


def _describe(schema: Schema, model: type) -> None:
    """Puts what is written under a field beside it."""
    for parent in reversed(model.__mro__):
        for field, note in _notes(parent.__module__).get(parent.__name__, {}).items():
            schema["properties"][field]["description"] = note


@cache
def _notes(module: str) -> dict[str, dict[str, str]]:
    """The docstrings of attributes, by class and name."""
    if not module.startswith(__package__ or ""):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            for field, after in pairwise(node.body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    note = " ".join(str(after.value.value).split())
                    found.setdefault(node.name, {})[ast.unparse(field.target)] = note
    return found


def _inlined(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    reference = schema.get("$ref")
    if reference is not None:
        target = definitions[reference.removeprefix("#/$defs/")]
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        schema = {**target, **beside}
    return _each_subschema(schema, lambda part: _inlined(part, definitions))


def _plain(schema: Mapping[str, Any]) -> Schema:
    """Optional means absent: writers never send null for it, so null and the default null go."""
    kept = {name: value for name, value in schema.items() if not (name == "default" and value is None)}
    choices = [choice for choice in kept.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        del kept["anyOf"]
        kept = {**choices[0], **kept}
    if "enum" in kept and kept.get("type") == "string":
        kept.pop("title", None)
    return _each_subschema(kept, _plain)


def closed(schema: Mapping[str, Any]) -> Schema:
    """A writer's form of a schema: nothing but the fields that it names."""
    kept = dict(schema)
    if "properties" in kept and "type" in kept:  # the parts of a condition have no type and stay open
        kept.setdefault("additionalProperties", False)
    return _each_subschema(kept, closed)


def _each_subschema(schema: Mapping[str, Any], change: Any) -> Schema:
    """A copy in reading order with `change` applied to each direct subschema."""
    changed = {name: schema[name] for name in (*_ORDER, *schema) if name in schema}
    if "properties" in changed:
        changed["properties"] = {name: change(part) for name, part in changed["properties"].items()}
    for keyword in _SUBSCHEMAS:
        if isinstance(changed.get(keyword), dict):
            changed[keyword] = change(changed[keyword])
    for keyword in _SUBSCHEMA_LISTS:
        if keyword in changed:
            changed[keyword] = [change(part) for part in changed[keyword]]
    return changed


def fields(schema: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted paths of all fields that a schema names; list items are `[]`, free keys `{}`."""
    found: set[str] = set()
    for name, part in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        found |= {path} | fields(part, path)
    if isinstance(schema.get("items"), dict):
        found |= fields(schema["items"], prefix + "[]")
    return found


def present(value: Any, prefix: str = "") -> set[str]:
    """The dotted paths of all fields that a message has, written as `fields` writes them."""
    if isinstance(value, dict):
        found: set[str] = set()
        for name, part in value.items():
            path = f"{prefix}.{name}" if prefix else name
            found |= {path} | present(part, path)
        return found
    if isinstance(value, list):
        return set().union(*(present(part, prefix + "[]") for part in value))
    return set()


def natural_order(name: str) -> tuple[int, ...]:
    """Sorts `1.10` after `1.9`."""
    return tuple(int(digits) for digits in re.findall(r"\d+", name))

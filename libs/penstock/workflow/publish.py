"""Owns how a definition becomes a published one: its version and its message."""

import hashlib
from datetime import datetime
from typing import Any

import orjson

from penstock.contracts.messages import WorkflowPublished
from penstock.workflow.definition import Definition

VERSION_DIGITS = 12


def version_of(definition: Definition) -> str:
    """The version given, else the first digits of the SHA-256 of the content.

    The order of a block's fields makes no difference, that of a schema's properties does: a model answers in it.
    A field that stands at its default makes none either: the language may grow without every version changing.
    """
    if definition.version is not None:
        return definition.version
    content = orjson.dumps(definition.model_dump(mode="json", exclude={"version"}, exclude_defaults=True))
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two published bodies are one definition: a field that one has not yet stands for its default.

    Raises ValidationError for a body that is none.
    """
    return one == other or Definition.model_validate(one) == Definition.model_validate(other)


def published(definition: Definition, at: datetime) -> WorkflowPublished:
    """The message that publishes a definition, all defaults written out: a later default must change nothing."""
    version = version_of(definition)
    body = definition.model_dump(mode="json") | {"version": version}
    return WorkflowPublished(name=definition.name, version=version, definition=body, published_at=at)

"""Owns `penstock topics` and `penstock schemas`: what the registry says, without asking anybody."""

import json
from typing import Annotated, Any

import typer

from penstock.contracts.schema import consumer_schema, entity, producer_schema
from penstock.contracts.topics import TOPICS, Topic
from services.cli import output
from services.cli.failures import CommandError
from services.cli.settings import AsJson


def topics(*, as_json: AsJson = False) -> None:
    """Show all topics: who publishes, who consumes, what the key is, and why each exists."""
    if as_json:
        output.as_json([_described(topic) for topic in TOPICS])
        return
    output.table(
        ("topic", "key", "from", "to", "why"),
        [(topic.name, str(topic.key), _names(topic.producers), _names(topic.consumers), topic.why) for topic in TOPICS],
        empty="",
    )


def schemas(
    topic: Annotated[
        str | None, typer.Argument(help="A topic or the start of its name, such as run.requested.")
    ] = None,
    *,
    consumer: Annotated[bool, typer.Option("--consumer", help="The open schema for readers.")] = False,
) -> None:
    """Print the JSON Schema of a topic's messages; without a topic, list what there is."""
    if topic is None:
        for each in TOPICS:
            typer.echo(entity(each))
        return
    wanted = topic.removeprefix("penstock.")
    found = [
        each
        for each in TOPICS
        if wanted in (each.name.removeprefix("penstock."), entity(each).removeprefix("penstock."))
    ]
    if not found:
        from penstock.workflow.faults import nearest  # only where it is needed

        known = [entity(each).removeprefix("penstock.") for each in TOPICS]
        raise CommandError(f"no topic {topic}", hint=nearest(wanted, known))
    typer.echo(json.dumps(consumer_schema(found[0]) if consumer else producer_schema(found[0]), indent=2))


def _described(topic: Topic[Any]) -> dict[str, Any]:
    return {
        "name": topic.name,
        "key": str(topic.key),
        "producers": sorted(topic.producers),
        "consumers": sorted(topic.consumers),
        "partitions": str(topic.group),
        "compacted": topic.compacted,
        "retention_ms": None if topic.compacted else topic.retention_ms,
        "why": topic.why,
    }


def _names(services: frozenset[Any]) -> str:
    return ", ".join(sorted(services))

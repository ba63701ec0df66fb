"""Owns `penstock topics` and `penstock schemas`: what the registry says, without asking anybody."""

import json
from typing import Annotated, Any

import typer

from penstock.contracts.schema import consumer_schema, entity, producer_schema
from penstock.contracts.topics import TOPICS, Topic
from services.cli import output
from services.cli.failures import CommandError
from services.cli.settings import AsJson

WORKFLOW = "workflow"
"""What stands for the schema of definitions."""


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
    topic: Annotated[str | None, typer.Argument(help="A topic, such as run.requested, or `workflow`.")] = None,
    *,
    consumer: Annotated[bool, typer.Option("--consumer", help="The open schema for readers.")] = False,
) -> None:
    """Print the JSON Schema of a topic's messages, or of workflow definitions; without either, list what there is.

    For editors: `penstock schemas workflow > workflow.schema.json`, and as a definition's first line
    `# yaml-language-server: $schema=workflow.schema.json`.
    """
    if topic == WORKFLOW:
        from penstock.workflow import editor  # it reads the sources of the definition's models

        typer.echo(editor.content(), nl=False)
        return
    if topic is None:
        typer.echo(WORKFLOW)
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

        known = [WORKFLOW, *(entity(each).removeprefix("penstock.") for each in TOPICS)]
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

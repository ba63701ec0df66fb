"""Owns the promise that the AsyncAPI document is whole: every reference resolves, every registry entry is there."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.contracts import generate
from penstock.contracts.asyncapi import BINDING_VERSION
from penstock.contracts.messages import Message
from penstock.contracts.topics import TOPICS, Service, Topic, consumed_by, produced_by

PATH = generate.ROOT / "schemas" / "asyncapi.yaml"

every_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.event_type)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return read


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolved(document: Mapping[str, Any], reference: str) -> Any:
    file, _, pointer = reference.partition("#")
    target: Any = json.loads((PATH.parent / file).read_text()) if file else document
    for step in pointer.split("/")[1:]:
        target = target[step.replace("~1", "/").replace("~0", "~")]
    return target


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    found = list(references(document))

    assert found
    assert all(resolved(document, reference) for reference in found)


def test_it_has_only_the_fields_of_asyncapi_3(document: dict[str, Any]) -> None:
    assert document["asyncapi"] == "3.0.0"
    assert set(document) <= {
        "asyncapi",
        "id",
        "info",
        "defaultContentType",
        "servers",
        "channels",
        "operations",
        "components",
    }
    assert {"title", "version"} <= set(document["info"])


@every_topic
def test_a_topic_is_a_channel_with_kafka_bindings(document: dict[str, Any], topic: Topic[Message]) -> None:
    channel = document["channels"][topic.event_type]
    binding = channel["bindings"]["kafka"]

    assert channel["address"] == topic.name
    assert set(channel.get("parameters", {})) == set(topic.parameters)
    assert binding["bindingVersion"] == BINDING_VERSION == "0.5.0"
    assert binding["topicConfiguration"]["cleanup.policy"] == list(topic.cleanup)
    assert ("retention.ms" in binding["topicConfiguration"]) == ("delete" in topic.cleanup)
    assert binding["topicConfiguration"].get("retention.ms") in (None, topic.retention_ms)


@every_topic
def test_a_topics_message_has_key_headers_payload_and_examples(document: dict[str, Any], topic: Topic[Message]) -> None:
    message = document["components"]["messages"][topic.event_type]

    assert resolved(document, message["payload"]["$ref"])["title"] == topic.message.__name__
    assert message["bindings"]["kafka"]["key"]["type"] == "string"
    assert "ce_id" in resolved(document, message["traits"][0]["$ref"])["headers"]["properties"]
    assert message["examples"]


def test_there_is_one_operation_for_each_thing_that_a_service_says_or_hears(document: dict[str, Any]) -> None:
    expected = {f"{service}.send.{topic.event_type}" for service in Service for topic in produced_by(service)} | {
        f"{service}.receive.{topic.event_type}" for service in Service for topic in consumed_by(service)
    }

    assert set(document["operations"]) == expected
    for name, operation in document["operations"].items():
        assert operation["action"] == name.split(".")[1]
        assert operation["channel"]["$ref"].endswith(name.split(".", 2)[2])


def test_the_readme_shows_the_diagram() -> None:
    readme = (Path(generate.ROOT) / "README.md").read_text()

    assert generate.DIAGRAM_BEGIN in readme
    assert 'orchestrator -- "inference.requested<br>work.cancelled" --> inference' in readme

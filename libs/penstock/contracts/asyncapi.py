"""Owns how the registry reads as an AsyncAPI 3.0 document and as a diagram of who says what to whom."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from penstock.contracts.ids import TENANT_PATTERN
from penstock.contracts.messages import Lane, Message
from penstock.contracts.schema import entity, major
from penstock.contracts.topics import TOPICS, Key, PartitionGroup, Service, Topic

BINDING_VERSION: Final = "0.5.0"
_EXTERNAL: Final = frozenset({Service.UPSTREAM, Service.DOWNSTREAM})

_KEYS: Final[Mapping[Key, str]] = {
    Key.ANY: "Anything, or nothing: the partition a request arrives on becomes the run's home.",
    Key.RUN: "The run id.",
    Key.TENANT: "The tenant.",
    Key.WORKFLOW_VERSION: "The workflow's `name@version`.",
    Key.WORKFLOW_ALIAS: "The alias, `name@alias`.",
    Key.ENGINE: "The engine's name.",
}
_GROUPS: Final[Mapping[PartitionGroup, str]] = {
    PartitionGroup.HOME: "The partition number is the run's home.",
    PartitionGroup.WORK: "Spread over the executors by key.",
    PartitionGroup.READ_SIDE: "Spread over the readers by key.",
    PartitionGroup.BROADCAST: "One partition, read whole by every instance.",
}
_PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "pool": {"description": "The pool of engines that serves the model.", "examples": ["small"]},
    "lane": {"description": "How urgent the run is.", "enum": [str(lane) for lane in Lane]},
    "queue": {"description": "The queue that a deployment of workers reads.", "examples": ["default"]},
}
_SYSTEMS: Final[Mapping[Service, str]] = {
    Service.UPSTREAM: 'upstream(["upstream systems"])',
    Service.DOWNSTREAM: 'downstream(["downstream systems"])',
    Service.CLI: 'cli(["penstock command"])',
    Service.ORCHESTRATOR: 'orchestrator["<b>orchestrator</b><br>durable state"]',
    Service.INFERENCE: 'inference["<b>inference</b><br>model engines"]',
    Service.TOOL_EXECUTOR: 'tool_executor["<b>tool_executor</b><br>MCP tools"]',
    Service.WORKER: 'worker["<b>worker</b><br>Python tasks"]',
    Service.GATEWAY: 'gateway["<b>gateway</b><br>HTTP, read side"]',
}

Examples = Mapping[str, Sequence[Mapping[str, Any]]]
"""AsyncAPI message examples by event type."""


def document(version: str, examples: Examples) -> str:
    """The whole system's AsyncAPI document, as YAML that sits beside the schemas' folders."""
    body = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Penstock",
            "version": version,
            "description": "Durable LLM agent workflows on Kafka: every topic, who publishes it and who consumes it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {_name(topic): _channel(topic) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {
            "messages": {_name(topic): _message(topic, examples) for topic in TOPICS},
            "messageTraits": {"cloudEvent": {"headers": _headers()}},
        },
    }
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)


def diagram() -> str:
    """A mermaid flowchart: one arrow for all topics that go from one speaker to another."""
    said: dict[tuple[Service, Service], list[str]] = defaultdict(list)
    for topic in TOPICS:
        for producer in sorted(topic.producers):
            for consumer in sorted(topic.consumers - {producer}):
                said[producer, consumer].append(entity(topic).removeprefix("penstock."))
    speakers = [service for service in Service if any(service in pair for pair in said)]
    lines = ["flowchart LR", *(f"    {_SYSTEMS[service]}" for service in speakers)]
    lines += [
        f'    {producer} -- "{"<br>".join(names)}" --> {consumer}' for (producer, consumer), names in said.items()
    ]
    return "\n".join(lines)


def _name(topic: Topic[Message]) -> str:
    return topic.event_type


def _channel(topic: Topic[Message]) -> dict[str, Any]:
    channel: dict[str, Any] = {
        "address": topic.name,
        "summary": topic.why,
        "messages": {_name(topic): {"$ref": f"#/components/messages/{_name(topic)}"}},
    }
    if topic.parameters:
        channel["parameters"] = {name: dict(_PARAMETERS[name]) for name in topic.parameters}
    channel["bindings"] = {
        "kafka": {
            "topicConfiguration": {
                "cleanup.policy": list(topic.cleanup),
                **({"retention.ms": topic.retention_ms} if "delete" in topic.cleanup else {}),
            },
            "bindingVersion": BINDING_VERSION,
        }
    }
    channel["x-partition-group"] = {"name": str(topic.group), "description": _GROUPS[topic.group]}
    return channel


def _operations() -> Iterable[tuple[str, dict[str, Any]]]:
    for service in Service:
        for action, role, topics in (
            ("send", "publishes", [topic for topic in TOPICS if service in topic.producers]),
            ("receive", "consumes", [topic for topic in TOPICS if service in topic.consumers]),
        ):
            for topic in topics:
                yield (
                    f"{service}.{action}.{_name(topic)}",
                    {
                        "action": action,
                        "channel": {"$ref": f"#/channels/{_name(topic)}"},
                        "summary": f"{service} {role} {_name(topic)}",
                        "tags": [{"name": str(service)}],
                        "messages": [{"$ref": f"#/channels/{_name(topic)}/messages/{_name(topic)}"}],
                    },
                )


def _message(topic: Topic[Message], examples: Examples) -> dict[str, Any]:
    # Where one of the writers is another team's system, headers may be missing: the trait names them, requires none.
    return {
        "name": topic.event_type,
        "title": topic.message.__name__,
        "summary": (topic.message.__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
        "correlationId": {"description": "The run id.", "location": "$message.header#/ce_correlationid"},
        "payload": {"$ref": f"./{entity(topic)}/{major(topic)}/producer.schema.json"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": _KEYS[topic.key]},
                "bindingVersion": BINDING_VERSION,
            }
        },
        "examples": list(examples[topic.event_type]),
    }


def _headers() -> dict[str, Any]:
    def text(description: str, **more: str) -> dict[str, str]:
        return {"type": "string", "description": description, **more}

    return {
        "type": "object",
        "description": "CloudEvents 1.0 in Kafka's binary mode. A plain producer may leave all of them out.",
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": text("Unique within its source; derived from what caused the event."),
            "ce_type": text("The topic's event type."),
            "ce_source": text("Who says it, a URI reference.", format="uri-reference"),
            "ce_time": text("When it happened.", format="date-time"),
            "ce_tenant": text("Whose it is; `default` where it is missing.", pattern=f"^{TENANT_PATTERN.pattern}$"),
            "ce_correlationid": text("The run id."),
            "ce_causationid": text("The id of the event that caused this one."),
            "traceparent": text("W3C Trace Context."),
            "content-type": text("`application/json`, or `application/cloudevents+json` for structured mode."),
        },
    }

"""Owns the promise that every golden message of every version is read by today's models and schemas."""

import json
from pathlib import Path

import jsonschema_rs
import pytest

from penstock.contracts import generate
from penstock.contracts.envelope import decode
from penstock.contracts.messages import Message
from penstock.contracts.schema import consumer_schema, fields, present, producer_schema
from penstock.contracts.topics import RUN_REQUESTED, TOPICS, Topic

FUTURE = "future"
"""Golden messages of writers that are ahead of us: only readers have to accept them."""

GOLDEN = [(topic, path) for topic in TOPICS for path in generate.examples(generate.ROOT, topic)]
golden = pytest.mark.parametrize(
    ("topic", "path"), [pytest.param(*pair, id=f"{pair[0].event_type}/{pair[1].stem}") for pair in GOLDEN]
)


def body_of(topic: Topic[Message], path: Path) -> bytes:
    _, body = decode(topic.event_type, 0, 0, 0, generate.headers_of(path), path.read_bytes())
    return body


@golden
def test_todays_model_reads_it(topic: Topic[Message], path: Path) -> None:
    message = topic.message.model_validate_json(body_of(topic, path))

    assert topic.message.model_validate_json(message.to_json()) == message


@golden
def test_the_consumers_schema_accepts_it(topic: Topic[Message], path: Path) -> None:
    jsonschema_rs.validate(consumer_schema(topic), json.loads(body_of(topic, path)))


@golden
def test_the_producers_schema_accepts_what_is_not_from_the_future(topic: Topic[Message], path: Path) -> None:
    valid = jsonschema_rs.is_valid(producer_schema(topic), json.loads(body_of(topic, path)))

    assert valid is not path.stem.startswith(FUTURE)


@golden
def test_what_we_write_for_it_passes_the_producers_schema(topic: Topic[Message], path: Path) -> None:
    written = topic.message.model_validate_json(body_of(topic, path)).to_json()

    jsonschema_rs.validate(producer_schema(topic), json.loads(written), validate_formats=True)


@golden
def test_its_attributes_say_what_the_registry_says(topic: Topic[Message], path: Path) -> None:
    envelope, _ = decode(topic.event_type, 0, 0, 0, generate.headers_of(path), path.read_bytes())

    assert envelope.type == topic.event_type


@golden
def test_it_is_named_after_a_released_version_or_the_future(topic: Topic[Message], path: Path) -> None:
    released = {name for name, _ in generate.history(generate.ROOT, topic)}

    assert path.stem.partition("-")[0] in released | {FUTURE}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.event_type)
def test_golden_messages_show_every_field(topic: Topic[Message]) -> None:
    shown = {
        field for path in generate.examples(generate.ROOT, topic) for field in present(json.loads(body_of(topic, path)))
    }

    missing = fields(producer_schema(topic)) - shown

    assert not missing, f"add a golden message under {generate.folder(topic)}/examples that has {sorted(missing)}"


def test_the_way_in_is_shown_bare_structured_and_from_the_future() -> None:
    paths = {path.stem: path for path in generate.examples(generate.ROOT, RUN_REQUESTED)}

    assert generate.headers_of(paths["1.0-bare"]) == []
    assert generate.key_of(paths["1.0-bare"]) is None
    assert dict(generate.headers_of(paths["1.0-structured"]))["content-type"].startswith(b"application/cloudevents")
    assert b"specversion" in paths["1.0-structured"].read_bytes()
    assert "future-fields" in paths

"""Owns the promise that the registry is whole: nobody speaks into the void, nobody listens to silence."""

import re

import pytest

from penstock.contracts.messages import Lane, Message
from penstock.contracts.topics import (
    INFERENCE_COMPLETED,
    INFERENCE_STREAMED,
    RUN_FINISHED,
    RUN_REQUESTED,
    RUN_SIGNALLED,
    TOPICS,
    Deployment,
    Key,
    PartitionGroup,
    Service,
    Topic,
    consumed_by,
    dead_letter_topic,
    produced_by,
)

FIVE = (Service.ORCHESTRATOR, Service.INFERENCE, Service.TOOL_EXECUTOR, Service.WORKER, Service.GATEWAY)
NAME = re.compile(r"penstock(\.([a-z_]+|\{[a-z]+\}))+\.[a-z]+\.v[1-9][0-9]*")
LEGAL = re.compile(r"[A-Za-z0-9._-]{1,245}")
"""Kafka allows 249 characters; the dead letters' prefix takes four."""

FOR_ALL_POOLS = (INFERENCE_COMPLETED, INFERENCE_STREAMED)

every_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.event_type)


@every_topic
def test_a_topic_is_spoken_and_heard(topic: Topic[Message]) -> None:
    assert topic.producers
    assert topic.consumers


@every_topic
def test_a_topics_name_says_entity_event_and_version(topic: Topic[Message]) -> None:
    assert NAME.fullmatch(topic.name)
    assert not topic.parameters or topic.name != topic.event_type


@every_topic
def test_a_topic_says_why_it_exists_in_sentences(topic: Topic[Message]) -> None:
    assert topic.why[0].isupper()
    assert topic.why.endswith(".")


@every_topic
def test_what_the_orchestrator_hears_goes_to_homes_or_to_everybody(topic: Topic[Message]) -> None:
    heard = Service.ORCHESTRATOR in topic.consumers

    assert not heard or topic.group in (PartitionGroup.HOME, PartitionGroup.BROADCAST)
    assert heard or topic.group is not PartitionGroup.HOME


@every_topic
def test_a_compacted_topic_has_a_key_that_names_a_thing(topic: Topic[Message]) -> None:
    assert not topic.compacted or topic.key in (Key.WORKFLOW_VERSION, Key.WORKFLOW_ALIAS, Key.ENGINE)


@every_topic
def test_a_topic_keeps_its_messages_for_a_finite_time(topic: Topic[Message]) -> None:
    assert 0 < topic.retention_ms < 400 * 86_400_000


@every_topic
def test_broker_names_are_legal_and_belong_to_one_topic_only(topic: Topic[Message]) -> None:
    deployment = Deployment(pools=("small", "large"), queues=("default", "slow"))
    names = deployment.names(topic)
    others = {name for other in TOPICS if other is not topic for name in deployment.names(other)}

    assert names
    assert all(LEGAL.fullmatch(name) for name in names)
    assert not others & set(names)


def test_names_and_event_types_are_given_once() -> None:
    assert len({topic.name for topic in TOPICS}) == len({topic.event_type for topic in TOPICS}) == len(TOPICS)


@pytest.mark.parametrize("service", FIVE)
def test_every_service_hears_and_speaks(service: Service) -> None:
    assert consumed_by(service)
    assert produced_by(service)


def test_a_family_has_a_topic_for_each_pool_and_lane() -> None:
    names = [name for topic in TOPICS for name in Deployment(pools=("a", "b")).names(topic) if ".inference." in name]

    assert len(names) == 2 * len(Lane) + len(FOR_ALL_POOLS)


def test_others_speak_and_hear_where_the_design_lets_them() -> None:
    assert {RUN_REQUESTED, RUN_SIGNALLED} == set(produced_by(Service.UPSTREAM))
    assert RUN_FINISHED in consumed_by(Service.DOWNSTREAM)


def test_homes_have_the_same_count_everywhere() -> None:
    deployment = Deployment(home_partitions=12, work_partitions=3, read_side_partitions=5)

    assert [deployment.partitions(group) for group in PartitionGroup] == [12, 3, 5, 1]


def test_dead_letters_have_a_topic_of_their_own() -> None:
    assert dead_letter_topic("penstock.run.requested.v1") == "dlq.penstock.run.requested.v1"

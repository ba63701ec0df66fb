"""Owns the promise that poison on any input topic is set aside byte for byte and stalls nothing behind it."""

from typing import Any

import pytest

from penstock.contracts.messages import Lane
from penstock.contracts.topics import INFERENCE_STREAMED, Service, consumed_by, dead_letter_topic
from penstock.runtime.kafka.records import ERROR_PREFIX
from penstock.testkit.downstream import Downstream
from penstock.testkit.state import settled
from penstock.testkit.traffic import Traffic, storm
from services.local.services import SERVICES
from services.local.system import System

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

FINISH_SECONDS = 180.0
RUNS = 24
KEY = b"\xfe\x00poison"
HEADERS: list[tuple[str, bytes | None]] = [
    ("ce_id", b"\xff\xfe"),
    ("x-odd", b"\x00\xff\x80"),
    ("x-empty", b""),
    ("content-type", b"application/json"),
]
POISONS = {"malformed": b'{"run_id": "x", \xff', "no object": b"[]", "tombstone": None}
SAID = ("topic", "partition", "offset", "group", "exception", "message", "delivery.count")


def inputs(system: System) -> list[tuple[Service, str, int]]:
    """Every partition of every topic that any service consumes for good, as the registry has them."""
    deployment = system.deployment
    return [
        (service, name, partition)
        for service in SERVICES
        for topic in consumed_by(service)
        if topic is not INFERENCE_STREAMED  # read while somebody watches; what is no piece is passed over
        for name in deployment.names(topic)
        for partition in range(deployment.partitions(topic.group))
    ]


async def letters(downstream: Downstream, service: Service, topic: str, places: set[tuple[int, int]]) -> None:
    """A service's dead letters of these places of a topic, each as it came and with why it is there."""

    def found() -> dict[tuple[int, int], Any]:
        by_place: dict[tuple[int, int], Any] = {}
        for record in downstream.heard(dead_letter_topic(topic)):
            said = dict(record.headers[-len(SAID) :])
            group = (said.get(f"{ERROR_PREFIX}group") or b"").decode()
            if group.startswith(f"penstock.{service.value}"):
                place = (int(said[f"{ERROR_PREFIX}partition"]), int(said[f"{ERROR_PREFIX}offset"]))
                by_place[place] = record
        return by_place

    await downstream.until(
        lambda: places <= found().keys(), lambda: f"{service} left {sorted(places - found().keys())} of {topic}"
    )
    for place in places:
        record = found()[place]
        assert record.key == KEY
        assert record.value in POISONS.values()
        assert list(record.headers[: len(HEADERS)]) == HEADERS
        said = {name: value.decode() for name, value in record.headers[len(HEADERS) :]}
        assert said.keys() == {ERROR_PREFIX + name for name in SAID}
        assert said[f"{ERROR_PREFIX}topic"] == topic
        assert said[f"{ERROR_PREFIX}message"]


async def test_poison_on_every_input_topic_is_set_aside_and_every_partition_moves_on(
    running: System, load: Traffic
) -> None:
    # given poison of three kinds on every partition of every input topic of every service
    places: dict[tuple[Service, str], set[tuple[int, int]]] = {}
    offsets: dict[tuple[str, int, str], int] = {}
    for service, topic, partition in inputs(running):
        for kind, value in POISONS.items():
            if (topic, partition, kind) not in offsets:
                offset = await load.upstream.say(topic, value, key=KEY, headers=HEADERS, partition=partition)
                offsets[topic, partition, kind] = offset
            places.setdefault((service, topic), set()).add((partition, offsets[topic, partition, kind]))

    # when good records come behind it: a definition, and runs of it in every home and every lane
    await load.upstream.publish(storm("after-poison"))
    run_ids = [
        run_id
        for lane in Lane
        for run_id in await load.start(f"after-poison-{lane}", RUNS, "after-poison", priority=lane.value)
    ]

    # then every service has set its poison aside, byte for byte, and every partition has moved on
    for (service, topic), expected in places.items():
        await letters(load.downstream, service, topic, expected)
    await load.all_completed(run_ids, FINISH_SECONDS)
    await settled(running.postgres_url(Service.ORCHESTRATOR), run_ids)
    await load.known_to_the_gateway(running.gateway_url, run_ids)

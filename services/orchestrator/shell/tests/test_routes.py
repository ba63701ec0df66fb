"""Owns the stories of routes: what one run's calls teach about a route, other runs go by."""

from typing import Any

import pytest

from penstock.contracts import topics
from penstock.contracts.messages import InferenceRequested, NextMove
from penstock.contracts.topics import Deployment
from penstock.runtime.errors import Unavailable
from penstock.testkit.builders import a_definition, a_model, failed
from services.orchestrator.shell.memory_store import MemoryStore
from services.orchestrator.shell.testing import BreakingStore, World

FIRST, SECOND = (
    topics.INFERENCE_REQUESTED.named(pool="small", lane="standard"),
    topics.INFERENCE_REQUESTED.named(pool="burst", lane="standard"),
)


async def a_world(store: MemoryStore | None = None, **route: Any) -> World:
    """An owner that knows a workflow of one model call, on a tier of two routes."""
    world = World(store, deployment=Deployment(pools=("small", "burst")))
    await world.own(0)
    routes = [{"pool": "small", "model": "first", **route}, {"pool": "burst", "model": "second"}]
    tier = {"routes": routes, "breaker": {"calls_min": 2}}
    await world.publish(a_definition(a_model("say"), tiers={"small": tier}))
    return world


def in_flight(world: World) -> float | None:
    """What the metric says of the first route."""
    return world.metrics.get_sample_value("penstock_route_calls_in_flight", {"route": "small/first"})


async def test_a_route_that_failed_other_runs_is_left_alone() -> None:
    # given two runs whose calls fail on the first route
    world = await a_world()
    await world.owner.process([world.request(f"order-{number}") for number in range(2)])
    calls = [InferenceRequested.model_validate(body) for body in world.wire.take(FIRST)]
    answers = [failed(call, NextMove.RETRY_ELSEWHERE).to_json() for call in calls]
    await world.owner.process([world.record(topics.INFERENCE_COMPLETED.name, answer) for answer in answers])
    world.wire.sent.clear()
    # when a third one starts
    await world.owner.process([world.request("order-3")])
    # then it goes to the second at once, and says why
    assert [body["run_id"] for body in world.wire.take(SECOND)] == ["order-3"]
    (told,) = world.wire.take(topics.RUN_PROGRESSED.name)
    (change,) = told["changes"]
    assert (change["route"], change["route_reason"]) == ("burst/second", "breaker_open")
    opened = {"route": "small/first", "state": "opened"}
    assert world.metrics.get_sample_value("penstock_breaker_changes_total", opened) == 1
    assert in_flight(world) == 0


async def test_runs_of_one_batch_know_of_each_others_calls() -> None:
    world = await a_world(in_flight_max=2)

    await world.owner.process([world.request(f"order-{number}") for number in range(3)])

    assert [len(world.wire.take(topic)) for topic in (FIRST, SECOND)] == [2, 1]


async def test_calls_of_a_batch_that_was_not_written_are_not_in_flight() -> None:
    # given a database that goes away in the middle
    store = BreakingStore()
    world = await a_world(store, in_flight_max=1)
    request = world.request()
    store.fail_before.append(Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.owner.process([request])
    # when the batch comes again, then there is room on the first route
    await world.owner.process([request])
    assert [len(world.wire.take(topic)) for topic in (FIRST, SECOND)] == [1, 0]
    assert in_flight(world) == 1

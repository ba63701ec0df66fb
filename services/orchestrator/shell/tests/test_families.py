"""Owns the stories of parent and child runs: asked for, ended, given up, whatever comes twice or late."""

from typing import Any

import orjson
import pytest

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import SignalKind, TaskRequested
from penstock.testkit.builders import a_chain, a_child_run, a_definition, a_task
from services.orchestrator.shell.testing import FINISHED, REQUESTED, SIGNALLED, Record, World

PARENT = a_definition(a_chain(a_child_run("review", timeout_seconds=60), a_task("sum", input="{{ review }}")))
CHILD = a_definition(a_task("read"), name="review")


async def owner_of(*homes: int, store: Any = None) -> World:
    """An owner of homes that knows both workflows."""
    world = World(store)
    await world.publish(PARENT)
    await world.publish(CHILD)
    await world.own(*homes)
    return world


@pytest.fixture
async def world() -> World:
    """An owner of both homes."""
    return await owner_of(0, 1)


def sent(world: World, topic: str) -> list[Outgoing]:
    """What was sent to a topic since the last look."""
    records = [record for record in world.wire.sent if record.topic == topic]
    world.wire.sent = [record for record in world.wire.sent if record.topic != topic]
    return records


def arrived(world: World, record: Outgoing, home: int) -> Record:
    """A record as it arrives on a partition."""
    return world.record(record.topic, record.value, home, key=record.key, headers=record.headers)


async def the_child(world: World, home: int = 1) -> TaskRequested:
    """Ask for the parent in home 0; its child starts in another and asks for its task."""
    await world.owner.process([world.request()])
    (asked,) = sent(world, REQUESTED)
    await world.owner.process([arrived(world, asked, home)])
    (task,) = world.wire.take_tasks()
    return task


def answers(world: World) -> list[Outgoing]:
    """The ends of children that were told to their parents."""
    return [record for record in sent(world, SIGNALLED) if orjson.loads(record.value)["kind"] == "child_finished"]


async def test_a_parent_hears_of_its_childs_end_at_its_home(world: World) -> None:
    # given a child in another home than its parent
    task = await the_child(world)
    assert (task.workflow, task.home) == ("review", 1)
    # when it ends
    await world.owner.process([world.answer(task, {"verdict": "good"})])
    # then it says so to everybody, and to its parent's home
    (child_end,) = world.wire.take(FINISHED)
    assert child_end["run_id"] == task.run_id
    (answer,) = answers(world)
    assert (answer.partition, answer.key) == (0, b"order-1")
    # and its parent goes on with its output
    await world.owner.process([arrived(world, answer, 0)])
    (following,) = world.wire.take_tasks()
    assert (following.run_id, following.input) == ("order-1", {"verdict": "good"})


async def test_a_request_for_a_child_that_comes_twice_is_one_run(world: World) -> None:
    await world.owner.process([world.request()])
    (asked,) = sent(world, REQUESTED)
    assert asked.partition is None
    assert asked.key == orjson.loads(asked.value)["run_id"].encode()
    # on the same partition, and on another
    await world.owner.process([arrived(world, asked, 1), arrived(world, asked, 1), arrived(world, asked, 0)])
    assert len(world.wire.take_tasks()) == 1


async def test_an_end_that_is_told_twice_counts_once(world: World) -> None:
    task = await the_child(world)
    await world.owner.process([world.answer(task, 1)])
    (answer,) = answers(world)
    await world.owner.process([arrived(world, answer, 0), arrived(world, answer, 0)])
    assert len(world.wire.take_tasks()) == 1
    await world.owner.process([arrived(world, answer, 0)])
    assert world.wire.take_tasks() == []


@pytest.mark.parametrize("dies", ["parent's owner", "child's owner", "both"])
async def test_a_child_and_its_parent_survive_their_owners(dies: str) -> None:
    # given parent and child at two owners, each of which dies before what it decided was sent
    first = await owner_of(0)
    second = await owner_of(1, store=first.store)
    for each in (first, second):
        each.wire.acknowledges = False
    await first.owner.process([first.request()])
    if dies != "child's owner":
        first = await owner_of(0, store=first.store)  # it sends what was left
    (asked,) = sent(first, REQUESTED)
    await second.owner.process([arrived(second, asked, 1)])
    (task,) = second.wire.take_tasks()
    await second.owner.process([second.answer(task, "fine")])
    if dies != "parent's owner":
        second = await owner_of(1, store=first.store)
        second.wire.take_tasks()  # sent again, under the same id
    # when the end comes, perhaps to an owner that never heard of the parent
    (answer,) = answers(second)
    if dies == "both":
        first = await owner_of(0, store=first.store)
    await first.owner.process([arrived(first, answer, 0)])
    # then the parent goes on
    assert [task.step for task in first.wire.take_tasks() if task.run_id == "order-1"] == ["main/sum"]


async def test_homes_that_moved_make_no_difference(world: World) -> None:
    # given a child that began at one owner
    task = await the_child(world)
    # when both homes go to another, and the end lands in the wrong one of them
    heir = await owner_of(0, 1, store=world.store)
    await heir.owner.process([heir.answer(task, "fine")])
    (answer,) = answers(heir)
    await heir.owner.process([arrived(heir, answer, 1)])
    (forwarded,) = answers(heir)
    assert (forwarded.partition, forwarded.value) == (0, answer.value)
    await heir.owner.process([arrived(heir, forwarded, 0)])
    # then the parent goes on
    assert [task.step for task in heir.wire.take_tasks() if task.run_id == "order-1"] == ["main/sum"]


async def test_the_end_of_a_child_whose_parent_is_over_changes_nothing_but_what_was_spent(world: World) -> None:
    task = await the_child(world)
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": "cancel"})])
    (cancel,) = sent(world, SIGNALLED)
    world.wire.take(FINISHED)
    # when the child ends before the cancel comes
    await world.owner.process([world.answer(task, 1)])
    (answer,) = answers(world)
    world.wire.sent.clear()
    await world.owner.process([arrived(world, answer, 0), arrived(world, cancel, 1)])
    (told,) = world.wire.take(topics.RUN_PROGRESSED.name)
    assert told["changes"] == []
    assert world.wire.sent == []
    await world.owner.process([arrived(world, answer, 0)])
    assert world.wire.sent == []


async def test_the_end_of_a_child_whose_parent_was_removed_is_nobodys(world: World) -> None:
    task = await the_child(world)
    await world.owner.process([world.answer(task, 1)])
    (answer,) = answers(world)
    # given an owner that does not know the parent
    stranger = await owner_of(0)
    await stranger.owner.process([arrived(stranger, answer, 0)])
    assert stranger.wire.sent == []


async def test_a_cancelled_parent_cancels_its_child(world: World) -> None:
    # given a child at work, when its parent is cancelled
    task = await the_child(world)
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": "cancel"})])
    (cancel,) = sent(world, SIGNALLED)
    assert (cancel.key, cancel.partition) == (task.run_id.encode(), None)
    world.wire.take(FINISHED)
    # then the child is cancelled too, once
    await world.owner.process([arrived(world, cancel, 1), arrived(world, cancel, 1)])
    assert [(body["run_id"], body["status"]) for body in world.wire.take(FINISHED)] == [(task.run_id, "cancelled")]


async def test_a_cancel_that_overtakes_its_childs_request_is_not_lost(world: World) -> None:
    # given a parent that was cancelled before its child's request was read
    await world.owner.process([world.request()])
    (asked,) = sent(world, REQUESTED)
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": "cancel"})])
    (cancel,) = sent(world, SIGNALLED)
    world.wire.take(FINISHED)
    # when the cancel is read first
    await world.owner.process([arrived(world, cancel, 1)])
    await world.owner.process([arrived(world, asked, 1)])
    # then the child never begins
    (end,) = world.wire.take(FINISHED)
    assert (end["workflow"], end["status"]) == ("review", "cancelled")
    assert world.wire.take_tasks() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"run": "nobody"}, "unknown_workflow"), ({"run": "strict", "input": {}}, "invalid_input")],
)
async def test_a_child_that_cannot_begin_fails_its_step(fields: dict[str, Any], code: str) -> None:
    # given a parent that asks for what is not there, or wrongly
    world = await owner_of(0, 1)
    await world.publish(a_definition(a_task("work"), name="strict", input={"type": "object", "required": ["text"]}))
    await world.publish(a_definition({"id": "ask", **fields}, name="parent"))
    await world.owner.process([world.request(workflow="parent")])
    (asked,) = sent(world, REQUESTED)
    # when the child's end comes back
    await world.owner.process([arrived(world, asked, 1)])
    (answer,) = answers(world)
    await world.owner.process([arrived(world, answer, 0)])
    # then the parent fails with its code
    ends = {body["run_id"]: body["error"] for body in world.wire.take(FINISHED)}
    assert (ends["order-1"]["code"], ends["order-1"]["step"]) == (code, "ask")


async def test_a_run_that_nobody_waits_for_tells_no_parent() -> None:
    world = await owner_of(0, 1)
    await world.publish(a_definition(a_child_run("review", wait=False), name="parent"))
    await world.owner.process([world.request(workflow="parent")])
    (end,) = world.wire.take(FINISHED)
    (asked,) = sent(world, REQUESTED)
    assert end["output"] == {"run_id": orjson.loads(asked.value)["run_id"]}
    await world.owner.process([arrived(world, asked, 1)])
    (task,) = world.wire.take_tasks()
    await world.owner.process([world.answer(task)])
    assert answers(world) == []


async def test_a_request_that_claims_a_parent_nowhere_stalls_nothing(world: World) -> None:
    # given a producer that claims to be a step of a run that does not exist, in a home that does not exist
    parent = {"run_id": "made-up", "home": 4_000, "step": "s", "request_id": str(ids.run_key("a", "b")), "depth": 1}
    await world.owner.process([world.request(workflow="review", parent=parent)])
    (task,) = world.wire.take_tasks()
    await world.owner.process([world.answer(task)])
    # then its end is looked for by the key
    (answer,) = answers(world)
    assert (answer.partition, answer.key) == (None, b"made-up")
    await world.owner.process([arrived(world, answer, 0)])


@pytest.mark.parametrize("fields", [{"kind": "child_finished"}, {"kind": "cancel", "parent": {}}])
async def test_half_an_end_is_set_aside(world: World, fields: dict[str, Any]) -> None:
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1"} | fields)])
    assert [record.topic for record in world.wire.sent] == ["dlq." + SIGNALLED]


async def test_a_redriven_parent_asks_for_another_child(world: World) -> None:
    # given a parent whose child failed
    task = await the_child(world)
    await world.owner.process([world.record(SIGNALLED, {"run_id": task.run_id, "kind": "cancel"}, 1)])
    (answer,) = answers(world)
    await world.owner.process([arrived(world, answer, 0)])
    assert [body["status"] for body in world.wire.take(FINISHED)] == ["cancelled", "failed"]
    # when it is redriven
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": SignalKind.REDRIVE.value})])
    # then another run is asked for, and the first one's end is nobody's any more
    (again,) = sent(world, REQUESTED)
    assert orjson.loads(again.value)["run_id"] != task.run_id
    await world.owner.process([arrived(world, answer, 0)])
    assert world.wire.take(FINISHED) == []

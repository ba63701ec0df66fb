"""Owns the stories of undoing on its homes: what is told while it lasts, and who goes on with it."""

from typing import Any

import pytest

from penstock.contracts import topics
from penstock.testkit.builders import a_chain, a_definition, a_task, failed
from services.orchestrator.shell.testing import FINISHED, SIGNALLED, TASK_COMPLETED, World

BOOK = a_task("book", undo={"task": "tasks.unbook", "input": {"of": "{{ output }}", "by": "{{ run.id }}"}})
TRIP = a_definition(a_chain(BOOK, a_task("pay")), undo_seconds=30)


async def owner(store: Any = None) -> World:
    """An owner that knows the trip."""
    world = World(store)
    await world.publish(TRIP)
    await world.own(0)
    return world


@pytest.fixture
async def world() -> World:
    """A run that is asked to pay for what it booked."""
    world = await owner()
    await world.owner.process([world.request()])
    (book,) = world.wire.take_tasks()
    await world.owner.process([world.answer(book, "B1")])
    return world


async def test_a_run_is_told_to_undo_and_ends_when_it_has(world: World) -> None:
    (pay,) = world.wire.take_tasks()
    world.wire.sent.clear()
    # when it fails
    await world.owner.process([world.record(TASK_COMPLETED, failed(pay).to_json())])
    # then it is running still, says that it undoes and why
    (undo,) = world.wire.take_tasks()
    assert (undo.step, undo.task, undo.input) == ("main/book/undo", "tasks.unbook", {"of": "B1", "by": "order-1"})
    assert world.wire.take(FINISHED) == []
    (told,) = world.wire.take(topics.RUN_PROGRESSED.name)
    assert (told["status"], told["undoing"], told["error"]["step"]) == ("running", True, "main/pay")
    # and it is over when that is done
    await world.owner.process([world.answer(undo)])
    (finished,) = world.wire.take(FINISHED)
    assert (finished["status"], finished["error"]["code"]) == ("failed", "broken")
    (told,) = world.wire.take(topics.RUN_PROGRESSED.name)
    assert (told["status"], "undoing" in told) == ("failed", False)


async def test_another_owner_goes_on_undoing(world: World) -> None:
    # given an owner that dies when it has asked for the undo
    world.wire.acknowledges = False
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": "cancel"})])
    heir = await owner(world.store)
    undo = next(task for task in heir.wire.take_tasks() if task.step == "main/book/undo")
    # when the answer comes to its heir, twice
    await heir.owner.process([heir.answer(undo), heir.answer(undo)])
    # then the run is over, once
    assert [body["status"] for body in heir.wire.take(FINISHED)] == ["cancelled"]


async def test_the_time_for_undoing_ends_at_any_owner(world: World) -> None:
    (pay,) = world.wire.take_tasks()
    await world.owner.process([world.record(TASK_COMPLETED, failed(pay).to_json())])
    heir = await owner(world.store)
    heir.now_ms += 30_000
    await heir.owner.process([])
    (finished,) = heir.wire.take(FINISHED)
    assert "Not undone: main/book (the time for undoing was over" in finished["error"]["message"]

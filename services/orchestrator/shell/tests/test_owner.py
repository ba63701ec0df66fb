"""Owns the stories of the orchestrator's loop: records in, records out, and what a failure in between may not do."""

from typing import Any

import pytest

from penstock.contracts import topics
from penstock.contracts.messages import NextMove, RunRequested
from penstock.runtime.errors import Fenced, Unavailable
from penstock.testkit.builders import BEGINNING_MS, a_chain, a_definition, a_task, failed, succeeded
from penstock.workflow.faults import Fault
from services.orchestrator.shell.deciding import CHANGES_PER_RECORD_MAX
from services.orchestrator.shell.definitions import RefusedDefinitionError
from services.orchestrator.shell.owner import Limits
from services.orchestrator.shell.testing import FINISHED, REQUESTED, SIGNALLED, TASK_COMPLETED, BreakingStore, World


@pytest.fixture
async def world() -> World:
    """An owner of both homes that knows a workflow of two tasks."""
    world = World()
    await world.own(0, 1)
    await world.publish(a_definition(a_chain(a_task("first"), a_task("second"))))
    return world


async def test_a_run_goes_from_its_request_to_its_result(world: World) -> None:
    await world.owner.process([world.request()])
    (first,) = world.wire.take_tasks()
    await world.owner.process([world.answer(first)])
    (second,) = world.wire.take_tasks()
    await world.owner.process([world.answer(second, {"total": 3})])
    (finished,) = world.wire.take(FINISHED)
    assert (first.step, second.step) == ("main/first", "main/second")
    assert finished["run_id"] == "order-1"
    assert finished["status"] == "completed"
    assert finished["output"] == {"total": 3}
    assert [body["sequence"] for body in world.wire.take(topics.RUN_PROGRESSED.name)] == [1, 2, 3]


@pytest.mark.parametrize("together", [True, False])
async def test_a_request_published_twice_starts_one_run(world: World, together: bool) -> None:
    first, again = world.request(), world.request()
    for batch in [[first, again]] if together else [[first], [again]]:
        await world.owner.process(batch)
    assert len(world.wire.take_tasks()) == 1


async def test_a_request_on_two_partitions_of_two_owners_starts_one_run(world: World) -> None:
    # given another owner that looked for the run before the first one wrote it
    other = World(world.store)
    await other.publish(a_definition(a_chain(a_task("first"), a_task("second"))))
    await world.own(0)
    await other.own(1)
    # when both decide on it, then it is home where it was written first
    await world.owner.process([world.request(home=0)])
    await other.owner.process([other.request(home=1)])
    assert [task.home for task in world.wire.take_tasks()] == [0]
    assert other.wire.take_tasks() == []


async def test_poison_is_set_aside_byte_for_byte_and_the_batch_goes_on(world: World) -> None:
    poison = world.record(REQUESTED, b"\xff{not json", key=b"\x00\xfe", headers=[("x", b"\xff\xfe")])
    await world.owner.process([poison, world.request()])
    (letter,) = [record for record in world.wire.sent if record.topic == "dlq." + REQUESTED]
    assert (letter.key, letter.value) == (poison.key, poison.value)
    assert letter.headers[0] == ("x", b"\xff\xfe")
    assert len(world.wire.take_tasks()) == 1


async def test_a_request_that_names_its_run_is_answered_even_if_it_cannot_be_served(world: World) -> None:
    await world.owner.process([world.request(priority="urgent")])
    (finished,) = world.wire.take(FINISHED)
    assert (finished["run_id"], finished["status"]) == ("order-1", "failed")
    assert finished["error"]["code"] == "invalid_request"
    assert finished["error"]["message"].startswith("priority: ")


async def test_an_unknown_tenant_is_answered() -> None:
    world = World(tenants=frozenset({"acme"}))
    await world.own(0)
    await world.publish(a_definition())
    await world.owner.process([world.request(tenant="acme"), world.request("order-2", tenant="other")])
    assert [body["error"]["code"] for body in world.wire.take(FINISHED)] == ["unknown_tenant"]
    assert len(world.wire.take_tasks()) == 1


async def test_an_unknown_workflow_is_looked_for_before_it_is_called_unknown() -> None:
    # given a definition that was published just now and has not been read yet
    world = World()
    await world.own(0)
    caught_up = []

    async def catch_up() -> None:
        caught_up.append(True)
        if len(caught_up) == 1:
            await world.publish(a_definition())

    world.definitions.catch_up = catch_up
    # when its first run is asked for, and one of a workflow that nobody published
    await world.owner.process([world.request(), world.request("order-2", workflow="nobody")])
    # then
    assert len(world.wire.take_tasks()) == 1
    assert [body["error"]["code"] for body in world.wire.take(FINISHED)] == ["unknown_workflow"]


async def test_what_was_decided_and_not_sent_is_sent_by_the_next_owner(world: World) -> None:
    world.wire.acknowledges = False
    await world.owner.process([world.request()])
    lost = list(world.wire.sent)
    # when another takes its homes over
    heir = World(world.store)
    positions = await heir.own(0, 1)
    # then it sends the very same records and reads on behind the request
    assert heir.wire.sent == lost
    assert positions == {(REQUESTED, 0): 1}
    assert not (await world.store.claim([0, 1], [REQUESTED])).outbox


async def test_an_owner_that_took_over_decides_as_the_one_before_would_have(world: World) -> None:
    await world.owner.process([world.request()])
    (first,) = world.wire.take_tasks()
    heir = World(world.store)
    await heir.publish(a_definition(a_chain(a_task("first"), a_task("second"))))
    await heir.own(0, 1)
    await heir.owner.process([heir.answer(first)])
    assert [task.step for task in heir.wire.take_tasks()][-1] == "main/second"


async def test_a_batch_that_was_not_written_is_decided_again_alike() -> None:
    # given a database that goes away in the middle
    world = World(store := BreakingStore())
    await world.own(0)
    await world.publish(a_definition())
    request = world.request()
    store.fail_before.append(Unavailable("away"))
    with pytest.raises(Unavailable):
        await world.owner.process([request])
    assert world.wire.sent == []
    # when the same records come again
    await world.owner.process([request])
    (task,) = world.wire.take_tasks()
    # then its answer is awaited
    await world.owner.process([world.answer(task)])
    assert [body["status"] for body in world.wire.take(FINISHED)] == ["completed"]


async def test_a_batch_whose_answer_was_lost_is_not_written_twice() -> None:
    # given a commit that happened, though its connection broke before it said so
    world = World(store := BreakingStore())
    await world.own(0)
    await world.publish(a_definition())
    request = world.request()
    store.fail_after.append(Unavailable("connection lost"))
    with pytest.raises(Unavailable):
        await world.owner.process([request])
    # when the batch comes again, then the owner learns that it has moved on
    with pytest.raises(Fenced):
        await world.owner.process([request])
    # and the take-over that follows sends what was written
    positions = await world.own(0)
    assert positions == {(REQUESTED, 0): 1}
    assert len(world.wire.take_tasks()) == 1


async def test_a_model_is_asked_for_its_answer_in_the_authors_order(world: World) -> None:
    # given a schema whose properties are not in the alphabet's order, in the store
    schema = {"type": "object", "properties": {"why": {"type": "string"}, "kind": {"type": "string"}}}
    step = {"id": "judge", "model": "small", "prompt": "Judge.", "output_schema": schema}
    tiers = {"small": [{"pool": "small", "model": "first"}]}
    await world.publish(a_definition(step, tiers=tiers), version="ordered")
    # when another owner loads it and starts a run
    heir = World(world.store)
    await heir.definitions.load()
    await heir.own(0)
    await heir.owner.process([heir.request(workflow="example@ordered")])
    # then the model is asked in that order
    (asked,) = heir.wire.take("penstock.inference.small.standard.requested.v1")
    assert list(asked["output_schema"]["properties"]) == ["why", "kind"]


async def test_records_of_a_home_that_is_not_ours_are_refused(world: World) -> None:
    await world.owner.release(frozenset({1}))
    with pytest.raises(Fenced):
        await world.owner.process([world.request(home=1)])


async def test_a_retry_comes_when_its_alarm_rings(world: World) -> None:
    await world.owner.process([world.request()])
    (first,) = world.wire.take_tasks()
    broken = failed(first, NextMove.RETRY_AFTER, retry_after_ms=5_000)
    await world.owner.process([world.record(TASK_COMPLETED, broken.to_json())])
    assert world.wire.take_tasks() == []
    # when its time has come, and not before
    world.now_ms += 4_999
    await world.owner.process([])
    assert world.wire.take_tasks() == []
    await world.owner.process([])  # acknowledged rows are gone, only the alarm is left to wake for
    assert world.owner.next_wake_ms() == BEGINNING_MS + 5_000
    world.now_ms += 1
    await world.owner.process([])
    # then
    (again,) = world.wire.take_tasks()
    assert (again.step, again.attempt) == (first.step, 2)
    assert again.request_id != first.request_id


async def test_alarms_are_found_by_the_next_owner(world: World) -> None:
    await world.owner.process([world.request()])
    heir = World(world.store)
    await heir.publish(a_definition(a_chain(a_task("first"), a_task("second"))))
    await heir.own(0, 1)
    assert heir.owner.next_wake_ms() == BEGINNING_MS + 60_000
    # when nobody answers in time
    heir.now_ms += 60_000
    await heir.owner.process([])
    await heir.owner.process([])
    wake_ms = heir.owner.next_wake_ms()
    assert wake_ms is not None
    heir.now_ms = wake_ms
    await heir.owner.process([])
    # then the next attempt is asked for
    assert [task.attempt for task in heir.wire.take_tasks()][-1] == 2


async def test_a_sleep_is_woken_by_the_next_owner(world: World) -> None:
    nap = a_chain({"id": "nap", "sleep": 90}, a_task("work"))
    await world.publish(a_definition(nap), version="naps")
    await world.owner.process([world.request(workflow="example@naps")])
    assert world.wire.take_tasks() == []
    # when the owner that put it to sleep is gone
    heir = World(world.store)
    await heir.definitions.load()
    await heir.own(0, 1)
    assert heir.owner.next_wake_ms() == BEGINNING_MS + 90_000
    heir.now_ms += 90_000
    await heir.owner.process([])
    # then
    assert [task.step for task in heir.wire.take_tasks()] == ["main/work"]


async def test_an_idle_owner_wakes_once_to_delete_what_was_acknowledged(world: World) -> None:
    await world.owner.process([world.request()])
    assert world.owner.next_wake_ms() == BEGINNING_MS + Limits().outbox_idle_ms
    world.now_ms += Limits().outbox_idle_ms
    await world.owner.process([])
    assert not (await world.store.claim([0], [REQUESTED])).outbox
    assert world.owner.next_wake_ms() == BEGINNING_MS + 60_000


async def test_a_signal_away_from_home_is_forwarded_once(world: World) -> None:
    await world.owner.process([world.request(home=1)])
    stray = world.record(SIGNALLED, {"run_id": "order-1", "kind": "cancel"}, 0, key=b"k", headers=[("x", b"y")])
    await world.owner.process([stray])
    (forwarded,) = [record for record in world.wire.sent if record.topic == SIGNALLED]
    assert (forwarded.partition, forwarded.key, forwarded.value) == (1, b"k", stray.value)
    # when it arrives at home
    await world.owner.process([world.record(SIGNALLED, forwarded.value, 1)])
    assert [body["status"] for body in world.wire.take(FINISHED)] == ["cancelled"]


async def test_a_signal_to_nobody_is_set_aside(world: World) -> None:
    await world.owner.process([world.record(SIGNALLED, {"run_id": "nobody", "kind": "cancel"})])
    assert [record.topic for record in world.wire.sent] == ["dlq." + SIGNALLED]


async def test_a_result_on_the_wrong_partition_is_set_aside(world: World) -> None:
    await world.owner.process([world.request(home=0)])
    (first,) = world.wire.take_tasks()
    world.wire.sent.clear()
    await world.owner.process([world.record(TASK_COMPLETED, succeeded(first, 1).to_json(), 1)])
    assert [record.topic for record in world.wire.sent] == ["dlq." + TASK_COMPLETED]


async def test_a_result_nobody_awaits_changes_nothing(world: World) -> None:
    await world.owner.process([world.request()])
    (first,) = world.wire.take_tasks()
    await world.owner.process([world.answer(first)])
    world.wire.sent.clear()
    await world.owner.process([world.answer(first, "again")])
    assert world.wire.sent == []


async def test_what_the_core_cannot_decide_on_stalls_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a bug in the core that one run meets
    from services.orchestrator.core import starting  # patched where the shell looks it up

    start = starting.start

    def stumble(request: RunRequested, **fields: Any) -> Any:
        if request.run_id == "cursed":
            raise ZeroDivisionError("a bug")
        return start(request, **fields)

    monkeypatch.setattr(starting, "start", stumble)
    # when it stands between two others
    await world.owner.process([world.request("one"), world.request("cursed"), world.request("two")])
    # then they run, and it is a dead letter that says why
    assert [task.run_id for task in world.wire.take_tasks()] == ["one", "two"]
    (letter,) = [record for record in world.wire.sent if record.topic == "dlq." + REQUESTED]
    assert b"ZeroDivisionError" in dict(letter.headers)["__dlq.errors.message"]


async def test_a_change_of_many_steps_is_told_in_records_that_a_broker_takes(world: World) -> None:
    # given a map over more items than one progress record tells of
    items = 2 * CHANGES_PER_RECORD_MAX
    side_by_side = {"map": "input.items", "do": a_task("work"), "max_concurrency": items}
    await world.publish(a_definition({"id": "all", "parallel": side_by_side}), version="wide")
    # when all begin at once
    await world.owner.process([world.request(workflow="example@wide", input={"items": list(range(items))})])
    # then the records follow one another, and together tell of every step
    told = world.wire.take(topics.RUN_PROGRESSED.name)
    assert [body["sequence"] for body in told] == [1, 2, 3]
    assert ["start" in body for body in told] == [True, False, False]
    assert len({change["step"] for body in told for change in body["changes"]}) == items + 1


async def test_a_definition_stays_as_it_was_first_published(world: World) -> None:
    with pytest.raises(RefusedDefinitionError, match="immutable"):
        await world.publish(a_definition(a_task("other")))
    await world.owner.process([world.request()])
    assert [task.step for task in world.wire.take_tasks()] == ["main/first"]


async def test_a_definition_that_was_taken_is_not_checked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a definition that is known, and checks that have become stricter since
    faults = [Fault("$.do", "what was sound is none any more")]
    monkeypatch.setattr("services.orchestrator.shell.definitions.check", lambda _: faults)
    # when an instance that starts reads the topic from its beginning, then it is taken as it was
    await world.publish(a_definition(a_chain(a_task("first"), a_task("second"))))
    with pytest.raises(RefusedDefinitionError, match="none any more"):
        await world.publish(a_definition(a_task("new")), version="2")


async def test_a_definition_for_a_queue_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(RefusedDefinitionError, match="queue 'gpu' does not exist"):
        await world.publish(a_definition(a_task("work", queue="gpu")), version="2")


@pytest.mark.parametrize("classify", [{"model": "big"}, {"model": "small", "escalate": "big", "min_confidence": 0.5}])
async def test_a_classifier_in_a_pool_that_does_not_exist_is_refused(world: World, classify: dict[str, Any]) -> None:
    route = [{"case": "one", "do": a_task("work")}]
    do = {"id": "pick", "route": route, "classify": {"prompt": "Which?", **classify}}
    tiers = {"small": [{"pool": "small", "model": "x"}], "big": [{"pool": "nowhere", "model": "x"}]}
    with pytest.raises(RefusedDefinitionError, match="pool 'nowhere' does not exist"):
        await world.publish(a_definition(do, tiers=tiers), version="2")


async def test_a_definition_that_was_stored_before_a_field_existed_is_the_same_with_its_default(world: World) -> None:
    """Guard: an upgrade adds fields to the language; what is published again unchanged must not be refused."""
    definition = a_definition(a_task("work"))
    await world.publish(definition, version="2")  # without what has its default
    await world.publish_in_full(definition, version="2")

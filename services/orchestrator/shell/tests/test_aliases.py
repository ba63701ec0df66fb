"""What `name@alias` means: the version that the run's key decides, the same whoever asks; the run pins it."""

import pytest

from penstock.contracts.ids import run_key
from penstock.testkit.builders import a_definition, a_task
from services.orchestrator.shell.aliases import RefusedAliasError
from services.orchestrator.shell.definitions_inbox import DefinitionsInbox
from services.orchestrator.shell.testing import FINISHED, SIGNALLED, Record, World


@pytest.fixture
async def world() -> World:
    """An owner of home 0 that knows three versions, each with a step of its own."""
    world = World()
    for version in ("1", "2", "3"):
        await world.publish(a_definition(a_task(f"work_{version}")), version)
    await world.own(0)
    return world


async def started(world: World, workflow: str, *run_ids: str) -> dict[str, str]:
    """The version that each run got."""
    await world.owner.process([world.request(run_id, workflow=workflow) for run_id in run_ids])
    return {task.run_id: task.version for task in world.wire.take_tasks()}


async def test_an_alias_stands_for_its_version_and_moves(world: World) -> None:
    # Given an alias on the oldest version
    await world.alias("stable", "1")

    # When runs start before and after it is moved
    before = await started(world, "example@stable", "a")
    await world.alias("stable", "2", "2026-01-02T00:00:00Z")
    after = await started(world, "example@stable", "b")

    # Then each has what the alias meant, and the newest and the pinned are what they were
    assert (before, after) == ({"a": "1"}, {"b": "2"})
    assert await started(world, "example", "c") == {"c": "3"}
    assert await started(world, "example@1", "d") == {"d": "1"}


async def test_a_canary_gets_the_runs_that_its_keys_say_whoever_resolves_them(world: World) -> None:
    # Given two owners that know of the same alias, with a share for a canary
    other = World()
    for each in (world, other):
        for version in ("1", "2"):
            await each.publish(a_definition(a_task(f"work_{version}")), version)
        await each.alias("stable", "1", canaries=[{"version": "2", "percent": 20}])
    keys = [run_key("default", f"order-{number}") for number in range(2_000)]

    # When both resolve the same runs
    one, two = (
        [resolved.version for key in keys if (resolved := each.definitions.resolve("example@stable", key)) is not None]
        for each in (world, other)
    )

    # Then they agree, and the canary has about its share
    assert one == two
    assert 0.17 < one.count("2") / len(keys) < 0.23


async def test_a_growing_canary_keeps_the_runs_that_it_had(world: World) -> None:
    # Given the runs that a small canary gets
    keys = [run_key("default", f"order-{number}") for number in range(500)]

    async def chosen(percent: float, day: int) -> set[int]:
        await world.alias("stable", "1", f"2026-01-{day:02}T00:00:00Z", canaries=[{"version": "2", "percent": percent}])
        resolved = [world.definitions.resolve("example@stable", key) for key in keys]
        return {number for number, each in enumerate(resolved) if each is not None and each.version == "2"}

    small = await chosen(10, 1)

    # Then a larger one has them too, and one of everything has all
    assert small < await chosen(40, 2) < await chosen(100, 3) == set(range(500))


async def test_a_version_goes_before_an_alias_of_its_name(world: World) -> None:
    # Given a version that is called as an alias is
    await world.alias("stable", "1")
    await world.publish(a_definition(a_task("work")), "stable")

    # Then who asks for it gets the version
    assert await started(world, "example@stable", "a") == {"a": "stable"}


async def test_what_was_set_last_holds_in_whatever_order_it_is_read(world: World) -> None:
    await world.alias("stable", "2", "2026-01-02T00:00:00Z")
    await world.alias("stable", "1", "2026-01-01T00:00:00Z")

    assert await started(world, "example@stable", "a") == {"a": "2"}


async def test_an_alias_of_a_version_that_is_not_known_yet_is_looked_for(world: World) -> None:
    # Given an alias whose canary was read before the definition that it names
    await world.alias("stable", "1", canaries=[{"version": "4", "percent": 100}])

    async def catch_up() -> None:
        await world.publish(a_definition(a_task("work_4")), "4")

    world.definitions.catch_up = catch_up

    # When a run of it starts, then the definition is read first
    assert await started(world, "example@stable", "a") == {"a": "4"}


@pytest.mark.parametrize(
    ("asked", "version"),
    [("example@nightly", "2"), ("late", "1"), ("late@1", "1")],
    ids=["an alias", "a bare name", "a version"],
)
async def test_a_run_of_what_nobody_knew_begins_by_a_redrive_once_it_is_known(
    world: World, asked: str, version: str
) -> None:
    # Given a run that failed because its request named nothing that was published
    await world.owner.process([world.request("order-1", workflow=asked)])
    (failed,) = world.wire.take(FINISHED)
    assert failed["error"]["code"] == "unknown_workflow"
    assert "then redrive the run" in failed["error"]["message"]

    # When that means something, which this instance has yet to read, and the run is redriven
    async def catch_up() -> None:
        await world.alias("nightly", "2")
        await world.publish(a_definition(a_task("work"), name="late"), "1")

    world.definitions.catch_up = catch_up
    await world.owner.process([world.record(SIGNALLED, {"run_id": "order-1", "kind": "redrive"})])

    # Then it begins, pinned to what it means now
    (task,) = world.wire.take_tasks()
    assert task.version == version

    # And an heir that loads it goes on with the same, whatever the name means by then
    heir = World(world.store)
    heir.follow(world)
    await heir.definitions.load()
    await heir.alias("nightly", "1", "2026-02-01T00:00:00Z")
    await heir.publish(a_definition(a_task("other"), name="late"), "9")
    await heir.own(0)
    await heir.owner.process([heir.answer(task)])
    (finished,) = heir.wire.take(FINISHED)
    assert (finished["status"], finished["version"]) == ("completed", version)


async def test_an_alias_that_nobody_set_is_an_unknown_workflow(world: World) -> None:
    await started(world, "example@nightly", "a")

    (finished,) = world.wire.take(FINISHED)
    assert (finished["error"]["code"], finished["version"]) == ("unknown_workflow", "nightly")


@pytest.mark.parametrize(
    "fields",
    [
        b"{",
        b'{"name": "example", "alias": "Stable", "version": "1", "set_at": "2026-01-01T00:00:00Z"}',
        b'{"name": "example", "alias": "stable", "version": "1"}',
        b'{"name": "example", "alias": "stable", "version": "1", "set_at": "2026-01-01T00:00:00Z",'
        b' "canaries": [{"version": "2", "percent": 60}, {"version": "3", "percent": 60}]}',
        b'{"name": "example", "alias": "stable", "version": "1", "set_at": "2026-01-01T00:00:00Z",'
        b' "canaries": [{"version": "1", "percent": 60}]}',
    ],
)
async def test_what_is_no_alias_is_set_aside_once(world: World, fields: bytes) -> None:
    # Given a record that cannot be taken, when it is read, and again at the next start
    record = Record("penstock.workflow.aliased.v1", 0, 7, fields)
    with pytest.raises(RefusedAliasError):
        await world.definitions.aliases.take(record)
    inbox = DefinitionsInbox(world.definitions.aliases.take, world.store, world.wire)
    await inbox.take(record)
    await inbox.take(record)

    # Then it is one dead letter
    assert [each.topic for each in world.wire.sent] == ["dlq.penstock.workflow.aliased.v1"]

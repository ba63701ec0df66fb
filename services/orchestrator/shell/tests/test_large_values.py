"""Owns the stories of large values in the orchestrator's loop: what is read for decisions, what is put away."""

from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.blobs import INLINE_BYTES_MAX, reference_of
from penstock.contracts.messages import InferenceRequested
from penstock.contracts.topics import INFERENCE_REQUESTED, TOOL_REQUESTED
from penstock.runtime.blobs import BlobMissingError, Blobs
from penstock.runtime.errors import Unavailable
from penstock.testkit.blob_folder import bring_back, take_away
from penstock.testkit.builders import a_chain, a_child_run, a_definition, a_model, a_task, a_tool
from services.orchestrator.shell.testing import FINISHED, REQUESTED, World

DOCUMENT = "All about pipes. " * 20_000
PROMPTED = INFERENCE_REQUESTED.named(pool="small", lane="standard")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    return Blobs(folder.as_uri(), cache_bytes_max=0)


async def a_world(blobs: Blobs | None, do: dict[str, Any]) -> World:
    world = World(blobs=blobs)
    await world.own(0, 1)
    tiers = {"small": [{"pool": "small", "model": "first"}]}
    await world.publish(a_definition(do, tiers=tiers))
    return world


READ_THEN_SUM = a_chain(a_task("read", input="{{ input.document }}"), a_model("sum", prompt="Sum {{ read }}"))


async def test_a_plain_producers_large_input_is_put_away_and_travels_as_a_reference(blobs: Blobs) -> None:
    world = await a_world(blobs, READ_THEN_SUM)

    await world.owner.process([world.request(tenant="acme", input={"document": DOCUMENT, "language": "en"})])

    (task,) = world.wire.take_tasks()
    assert reference_of(task.input) is not None
    assert await blobs.whole(task.input, "acme") == DOCUMENT
    with pytest.raises(BlobMissingError):
        await blobs.whole(task.input, "default")
    (run,) = (await world.store.load({task.run_key})).values()
    assert run.input == {"document": task.input, "language": "en"}


async def test_a_prompt_over_a_large_output_is_whole(blobs: Blobs) -> None:
    world = await a_world(blobs, READ_THEN_SUM)
    requests = [world.request(f"order-{number}", input={"document": "d"}) for number in range(3)]
    await world.owner.process(requests)
    outputs = [await blobs.stored(f"{number} {DOCUMENT}", "default") for number in range(3)]

    await world.owner.process(
        [world.answer(task, output) for task, output in zip(world.wire.take_tasks(), outputs, strict=True)]
    )

    prompts = [InferenceRequested.model_validate(body).messages[-1].content for body in world.wire.take(PROMPTED)]
    assert prompts == [f"Sum {number} {DOCUMENT}" for number in range(3)]


@pytest.mark.parametrize("restarted", [False, True])
async def test_while_the_store_is_away_nothing_is_decided_and_nothing_is_lost(
    blobs: Blobs, folder: Path, restarted: bool
) -> None:
    world = await a_world(blobs, READ_THEN_SUM)
    await world.owner.process([world.request(input={"document": "d"})])
    (task,) = world.wire.take_tasks()
    answer = world.answer(task, await blobs.stored(DOCUMENT, "default"))
    take_away(folder)

    with pytest.raises(Unavailable, match="is not there"):
        await world.owner.process([answer])
    with pytest.raises(Unavailable, match="is not there"):
        await world.owner.process([world.request("order-2", input={"document": DOCUMENT})])
    assert world.wire.take(PROMPTED) == []

    bring_back(folder)
    if restarted:
        world = World(world.store, blobs=blobs)
        await world.definitions.load()
        await world.own(0, 1)
    await world.owner.process([answer])
    assert len(world.wire.take(PROMPTED)) == 1


@pytest.mark.parametrize("due", [False, True])
async def test_more_than_fits_at_once_is_decided_in_parts(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, due: bool
) -> None:
    """Guard: a batch of large documents is not read into memory whole."""
    world = await a_world(blobs, READ_THEN_SUM)
    await world.owner.process([world.request(f"order-{number}", input={"document": "d"}) for number in range(7)])
    tasks = world.wire.take_tasks()
    if due:
        world.now_ms += 10**9  # the runs are past their deadlines by then; what they are told changes nothing
    outputs = [await blobs.stored(f"{number} {DOCUMENT}", "default") for number in range(7)]
    held: list[int] = []
    large = world.owner._large
    monkeypatch.setattr(large, "_batch_bytes_max", 3 * len(DOCUMENT))
    read = large.read

    async def watched(needed: Any, *, alone: bool = True) -> None:
        await read(needed, alone=alone)
        held.append(large.contents.size_bytes)

    monkeypatch.setattr(large, "read", watched)
    large.contents._bytes_max = 0  # type: ignore[misc]  # nothing is kept from part to part

    await world.owner.process([world.answer(task, output) for task, output in zip(tasks, outputs, strict=True)])

    if due:
        assert len(world.wire.take(FINISHED)) == 7
        return
    prompts = [InferenceRequested.model_validate(body).messages[-1].content for body in world.wire.take(PROMPTED)]
    assert prompts == [f"Sum {number} {DOCUMENT}" for number in range(7)]
    assert max(held) <= 3 * len(DOCUMENT)
    assert len(held) >= 3


async def test_a_lost_blob_fails_its_run_alone(blobs: Blobs) -> None:
    world = await a_world(blobs, READ_THEN_SUM)
    await world.owner.process([world.request(name, input={"document": "d"}) for name in ("order-1", "order-2")])
    first, second = world.wire.take_tasks()
    lost = {"$blob": f"sha256:{'0a' * 32}", "bytes": 90_000, "media_type": "application/json"}

    await world.owner.process([world.answer(first, lost), world.answer(second, "read")])

    (finished,) = world.wire.take(FINISHED)
    assert (finished["run_id"], finished["error"]["code"]) == (first.run_id, "expression_failed")
    assert "there is no blob sha256:0a0a" in finished["error"]["message"]
    assert len(world.wire.take(PROMPTED)) == 1


async def test_another_tenants_blob_is_not_there(blobs: Blobs) -> None:
    """Guard: who knows a digest has not the document."""
    world = await a_world(blobs, a_model("sum", prompt="{{ input.document }}"))
    given = await blobs.stored({"document": DOCUMENT}, "acme")

    await world.owner.process([world.request("theirs", input=given, tenant="blue-river")])
    await world.owner.process([world.request("ours", input=given, tenant="acme")])

    (finished,) = world.wire.take(FINISHED)
    assert finished["run_id"] == "theirs"
    assert "never stored for this tenant" in finished["error"]["message"]
    assert len(world.wire.take(PROMPTED)) == 1


async def test_without_a_store_a_large_input_travels_as_it_is() -> None:
    world = await a_world(None, READ_THEN_SUM)

    await world.owner.process([world.request(input={"document": DOCUMENT})])

    (task,) = world.wire.take_tasks()
    assert task.input == DOCUMENT
    assert len(DOCUMENT) > INLINE_BYTES_MAX


PAGES = [f"{number} " + "x" * 60_000 for number in range(12)]
"""Each travels as it is; together they are too large to."""
JOINED = a_chain(
    {"id": "pages", "parallel": {"map": "input.pages", "do": a_task("page", input="{{ item }}")}},
    a_task("join", input={"pages": "{{ pages }}", "unit": "m"}),
    output={"pages": "{{ pages }}", "count": "{{ pages | length }}"},
)


async def answered(world: World, outputs: list[Any]) -> None:
    await world.owner.process(
        [world.answer(task, output) for task, output in zip(world.wire.take_tasks(), outputs, strict=True)]
    )


async def test_what_is_put_together_of_many_outputs_is_stored_and_referred_to(blobs: Blobs) -> None:
    world = await a_world(blobs, JOINED)
    await world.owner.process([world.request(tenant="acme", input={"pages": list(range(12))})])
    await answered(world, PAGES)

    (join,) = world.wire.take_tasks()
    assert join.input["unit"] == "m"
    assert await blobs.whole(join.input, "acme") == {"pages": PAGES, "unit": "m"}
    assert len(join.to_json()) < INLINE_BYTES_MAX
    await world.owner.process([world.answer(join, "done")])

    (finished,) = world.wire.take(FINISHED)
    assert finished["output"]["count"] == 12
    assert await blobs.whole(finished["output"], "acme") == {"pages": PAGES, "count": 12}
    (run,) = (await world.store.load({join.run_key})).values()
    assert run.output == finished["output"]


async def test_a_tool_and_a_child_run_are_asked_with_references_too(blobs: Blobs) -> None:
    given = {"pages": "{{ pages }}"}
    last = {"id": "both", "parallel": {"sections": [a_tool("look", arguments=given), a_child_run("next", input=given)]}}
    world = await a_world(blobs, a_chain(JOINED["chain"][0], last))
    await world.owner.process([world.request(input={"pages": list(range(12))})])

    await answered(world, PAGES)

    (tool,), (child,) = world.wire.take(TOOL_REQUESTED.name), world.wire.take(REQUESTED)
    assert await blobs.whole(tool["arguments"], "default") == {"pages": PAGES}
    assert await blobs.whole(child["input"], "default") == {"pages": PAGES}
    assert len(str(tool)) + len(str(child)) < 4_000


async def test_what_cannot_be_stored_is_not_said_and_nothing_is_written(blobs: Blobs, folder: Path) -> None:
    """Guard: no message names a blob that is not there."""
    world = await a_world(blobs, JOINED)
    await world.owner.process([world.request(input={"pages": list(range(12))})])
    answers = [world.answer(task, page) for task, page in zip(world.wire.take_tasks(), PAGES, strict=True)]
    take_away(folder)

    with pytest.raises(Unavailable, match="is not there"):
        await world.owner.process(answers)
    assert world.wire.take_tasks() == []

    bring_back(folder)
    await world.owner.process(answers)
    (join,) = world.wire.take_tasks()
    assert await blobs.whole(join.input, "default") == {"pages": PAGES, "unit": "m"}


async def test_without_a_store_what_is_put_together_must_fit_a_message() -> None:
    world = await a_world(None, JOINED)
    await world.owner.process([world.request(input={"pages": list(range(12))})])

    await answered(world, PAGES)

    (finished,) = world.wire.take(FINISHED)
    assert finished["error"]["code"] == "value_too_large"
    assert "at most 524288 can be sent" in finished["error"]["message"]

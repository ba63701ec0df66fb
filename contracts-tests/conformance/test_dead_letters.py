"""What is promised of a record that can never be handled, where somebody waits for its answer."""

from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.records import Received
from penstock.testkit.world import World, outgoing, values


async def test_who_waits_for_a_poison_record_is_told(world: World) -> None:
    """Given poison that says how to answer it, then the dead letter comes first, and then the answer."""

    async def handle(record: Received) -> Sequence[Outgoing]:
        answer = outgoing(world.completed, b"told", partition=record.partition)
        raise Poison("it kills engines", [answer])

    await world.fill([b"poison"])
    world.run(await world.in_flight(handle, group="g-told" + world.queue))

    assert values(await world.read(world.completed, 2)) == [b"poison", b"told"]

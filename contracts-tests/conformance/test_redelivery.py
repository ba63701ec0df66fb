"""What the executors' consumer promises of a request that comes again: it is run once, whatever event carries it."""

import asyncio
from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.runtime.kafka.records import Received
from penstock.runtime.work import request_identity
from penstock.testkit.world import World, outgoing, within

REQUEST = b"2f6d6a1e-6b57-5f1c-9f0e-7a8f4f4d1c11"
BODY = b'{"request_id":"%s"}' % REQUEST
OURS = [("ce_id", REQUEST), ("ce_source", b"penstock/orchestrator")]
FOREIGN = [("ce_id", b"another"), ("ce_source", b"somebody")]


async def test_a_request_is_run_once_whatever_events_carry_it(world: World) -> None:
    """Given a request at work, when other events carry it, then and later, then it is run once."""
    seen: list[bytes] = []
    at_work, go_on, last = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(record: Received) -> Sequence[Outgoing]:
        value = record.value or b""
        seen.append(value)
        if value == BODY:
            at_work.set()
            await go_on.wait()
        if value == b"last":
            last.set()
        return [outgoing(world.completed, b"out-" + value, partition=record.partition)]

    world.run(await world.in_flight(handle, group="g-request" + world.queue, identify=request_identity))
    await world.write(world.requested, b"k", BODY, 0, OURS)
    await within(at_work.wait())

    # while it runs, whoever comes next waits for it
    await world.write(world.requested, b"k", BODY, 1, FOREIGN)
    await world.fill([b"between"], partition=1)
    await world.read(world.completed, 1)
    go_on.set()
    await world.read(world.completed, 2)

    # and later it is answered from what is remembered
    await world.write(world.requested, b"k", BODY, 0, [])
    await world.fill([b"last"])
    await within(last.wait())
    assert sorted(seen) == [b"between", b"last", BODY]

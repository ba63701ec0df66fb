"""The reader of a broadcast topic: it has caught up at the end of the topic, whatever stands there."""

import asyncio

from penstock.runtime.kafka.broadcast import BroadcastReader
from penstock.runtime.kafka.records import Received
from penstock.testkit.log import MemoryLog

TOPIC = "penstock.workflow.published.v1"
SECONDS = 8.0


async def test_an_end_that_was_compacted_away_is_reached() -> None:
    # given a topic whose last record is gone
    log = MemoryLog({TOPIC: 1})
    log.append(TOPIC, key=b"a", value=b"1", partition=0)
    log.append(TOPIC, key=b"gone", value=None, partition=0)
    log.drop(TOPIC, 0, 1)
    heard: list[bytes | None] = []
    caught_up, stop = asyncio.Event(), asyncio.Event()

    async def hear(record: Received) -> None:
        heard.append(record.value)

    reader = BroadcastReader(log, TOPIC, hear)
    running = asyncio.create_task(reader.run(stop, caught_up=caught_up.set))
    # when it is read, then the reader knows that nothing more comes
    async with asyncio.timeout(SECONDS):
        await caught_up.wait()
        await reader.catch_up()
    # and what is published later is waited for
    log.append(TOPIC, key=b"b", value=b"2", partition=0)
    async with asyncio.timeout(SECONDS):
        await reader.catch_up()
    assert heard == [b"1", b"2"]
    stop.set()
    await running

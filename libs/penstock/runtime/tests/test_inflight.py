"""One record's way through an in-flight consumer: run once, remembered afterwards."""

from collections.abc import Sequence

from penstock.contracts.envelope import Outgoing
from penstock.contracts.topics import Service
from penstock.runtime.kafka.attempts import Outcome, Slot
from penstock.runtime.kafka.epoch import Epoch
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.records import Received
from penstock.testkit.log import MemoryLog, MemoryRecord

REQUESTED = "penstock.task.q.requested.v1"
COMPLETED = "penstock.task.completed.v1"


async def test_a_finished_event_sends_its_outputs_again_without_running() -> None:
    """Given an event that was handled, when it is delivered again, then its outputs are sent again and nothing runs."""
    log = MemoryLog({REQUESTED: 1, COMPLETED: 1})
    publisher = Publisher(Service.WORKER, log)
    await publisher.start()
    calls: list[int] = []

    async def handle(record: Received) -> Sequence[Outgoing]:
        calls.append(record.offset)
        return [Outgoing(COMPLETED, None, b"answer", [], 0)]

    consumer = InFlightConsumer(Service.WORKER, [REQUESTED], "g", handle, publisher, log)
    freed: list[bool] = []
    outcomes = [
        await consumer._outcome(
            Epoch([], [REQUESTED]),
            record,
            Slot(lambda _: freed.append(True), record),
        )
        for record in (
            MemoryRecord(REQUESTED, 0, offset, 0, None, b"", (("ce_id", b"1"), ("ce_source", b"s")))
            for offset in (3, 7)
        )
    ]

    assert outcomes == [Outcome.DONE, Outcome.REMEMBERED]
    assert calls == [3]
    assert [record.value for record in log.records(COMPLETED)] == [b"answer", b"answer"]
    assert freed == [True, True]
    await publisher.stop()

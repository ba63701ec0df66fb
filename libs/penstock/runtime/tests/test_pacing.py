"""Owns the examples of how often a client asks for the cluster's layout."""

import inspect
from collections.abc import Sequence
from itertools import pairwise

import pytest
from aiokafka.client import AIOKafkaClient

from penstock.runtime.kafka.broker import GroupSettings, KafkaBroker
from penstock.runtime.kafka.pacing import PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN, PacedLayout, pace


class Cluster:
    """Answers at once, and notes when it was asked. The last answer is given for ever."""

    def __init__(self, answers: Sequence[bool]) -> None:
        self.answers = list(answers)
        self.now_seconds = 100.0
        self.asked_at: list[float] = []

    async def ask(self, cluster: object, topics: object) -> bool:
        assert (cluster, topics) == ("cluster", "topics")
        self.asked_at.append(self.now_seconds)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def sleep(self, seconds: float) -> None:
        self.now_seconds += seconds

    def paced(self) -> PacedLayout:
        return PacedLayout(self.ask, lambda: self.now_seconds, self.sleep)

    def pauses(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in pairwise(self.asked_at)]


@pytest.mark.parametrize(
    ("answers", "pauses"),
    [
        ([False], [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        ([True], [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        ([False, False, True, False], [0.1, 0.2, 0.4, 0.1, 0.2, 0.4]),
    ],
    ids=["away", "no leader yet", "back for a moment"],
)
async def test_who_asks_again_at_once_is_answered_after_a_pause(answers: list[bool], pauses: list[float]) -> None:
    """Guard: an unreachable broker costs no half of a core."""
    cluster = Cluster(answers)
    layout = cluster.paced()

    for _ in range(7):
        await layout("cluster", "topics")

    assert cluster.pauses() == pauses
    assert (PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX) == (0.1, 1.0)


async def test_who_asks_now_and_then_does_not_wait() -> None:
    cluster = Cluster([True])
    layout = cluster.paced()

    await layout("cluster", "topics")
    cluster.now_seconds += 5
    await layout("cluster", "topics")

    assert cluster.asked_at == [100.0, 105.0]


async def test_every_client_is_paced_once_and_its_own_loop_asks_through_it() -> None:
    broker = KafkaBroker("127.0.0.1:1")
    producer, consumer = broker.producer(compression=None, batch_bytes_max=1000), broker.consumer(GroupSettings(None))
    for each, end in ((producer, producer.close(0.0)), (consumer, consumer.stop())):
        with pytest.raises(Exception, match="Unable to bootstrap"):
            await each.start()
        await end
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    pace(client)
    paced = client._metadata_update
    pace(client)

    assert isinstance(producer.client._metadata_update, PacedLayout)  # type: ignore[attr-defined]  # aiokafka's own
    assert isinstance(consumer._client._metadata_update, PacedLayout)  # type: ignore[attr-defined]  # aiokafka's own
    assert client._metadata_update is paced
    assert "self._metadata_update(" in inspect.getsource(AIOKafkaClient._md_synchronizer)
    await client.close()

"""Owns the examples of fetch sessions: nothing is asked for twice, and whatever is in doubt is asked for again."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import consumer
from aiokafka.consumer.fetcher import Fetcher, FetchError
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11
from aiokafka.structs import PartitionMetadata
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.kafka.broker import GroupSettings, KafkaBroker
from penstock.runtime.kafka.fetching import EPOCH_MAX, Session, SessionFetcher, SessionRequest, Wanted
from penstock.runtime.kafka.records import TopicPartition

A, B, C = ("a", 0), ("a", 1), ("c", 0)
UNKNOWN_SESSION = 70


class Remembering:
    """A broker's side of one session, as KIP-227 has it."""

    def __init__(self) -> None:
        self.partitions: Wanted = {}
        self.session_id = 0
        self.epoch = 0

    def fetch(self, session_id: int, epoch: int, named: Wanted, gone: Any) -> tuple[int, int]:
        """The session and the error it answers with."""
        if epoch == 0:
            self.partitions, self.session_id, self.epoch = dict(named), self.session_id + 1, 0
            return self.session_id, 0
        if session_id != self.session_id or epoch != self.epoch + 1:
            return 0, UNKNOWN_SESSION
        self.epoch = epoch
        for place in gone:
            del self.partitions[place]
        self.partitions.update(named)
        return session_id, 0


wanted_lists = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from([A, B, C]), st.tuples(st.integers(0, 3), st.just(100)), min_size=1),
        st.sampled_from(["answered", "answered", "answered", "lost", "never read", "evicted", "no room"]),
    ),
    max_size=30,
)


@given(fetches=wanted_lists)
def test_the_broker_looks_at_what_is_wanted_and_nothing_else(fetches: list[tuple[Wanted, str]]) -> None:
    """Given fetches of which some never reach the broker or are not answered, then each it takes names all there is."""
    session, broker = Session(), Remembering()
    for wanted, fate in fetches:
        asked = session.ask(wanted)
        if fate == "lost":
            continue
        if fate == "evicted":
            broker.session_id += 100
        session_id, error = broker.fetch(*asked)
        assert error or broker.partitions == wanted
        assert not error or fate == "evicted"
        if fate != "never read":
            session.answered(0 if fate == "no room" else session_id, error)


def test_only_what_moved_is_named() -> None:
    """Given three partitions, when one moves and one goes, then the next fetch says just that."""
    session = Session()
    session.ask({A: (0, 100), B: (0, 100), C: (5, 100)})
    session.answered(9, 0)

    session_id, epoch, named, gone = session.ask({A: (7, 100), B: (0, 100)})

    assert (session_id, epoch, named, list(gone)) == (9, 1, {A: (7, 100)}, [C])


def test_a_broker_that_refuses_again_and_again_is_told_from_one_that_forgot() -> None:
    """Given a session that the broker forgot, then one refusal is counted; those of a beginning are counted on."""
    session = Session()
    for error, refusals in ((0, 0), (UNKNOWN_SESSION, 1), (0, 0), (UNKNOWN_SESSION, 1), (56, 2), (56, 3), (0, 0)):
        session.ask({A: (0, 100)})
        session.answered(9, error)
        assert session.refusals == refusals


def test_epochs_begin_again_above_the_first() -> None:
    """Given the last epoch there is, when it is answered, then the next is no beginning of a session."""
    session = Session()
    session.ask({A: (0, 100)})
    session.answered(9, 0)
    session._epoch = EPOCH_MAX
    session.ask({A: (1, 100)})
    session.answered(9, 0)

    assert session.ask({A: (2, 100)})[:2] == (9, 1)


def test_an_old_broker_is_asked_as_aiokafka_asks() -> None:
    """Given a broker without sessions, then the request is what it was."""
    plain = FetchRequest(500, 1, 1000, 0, [("a", [(0, 5, 100)])])

    asked = SessionRequest(plain, Session()).build(FetchRequest_v4)

    assert asked.encode() == plain.build(FetchRequest_v4).encode()


def test_every_consumer_of_the_process_has_sessions() -> None:
    """Guard: aiokafka's consumer makes its fetcher from this name."""
    assert consumer.Fetcher is SessionFetcher


@pytest.fixture
async def short_and_long() -> AsyncIterator[SessionFetcher]:
    """A fetcher of four partitions on two brokers; what it would ask is compared with what aiokafka would."""
    client, subscription = AIOKafkaClient(bootstrap_servers="127.0.0.1:1"), SubscriptionState()
    client.cluster._partitions["t"] = {each: PartitionMetadata("t", each, each % 2, [], [], None) for each in range(4)}
    made = SessionFetcher(client, subscription)
    made._fetch_task.cancel()  # it is asked what it would do, and does nothing
    subscription.assign_from_user([TopicPartition("t", each) for each in range(4)])
    for each in range(4):
        subscription.seek(TopicPartition("t", each), 10 + each)
    yield made
    await made.close()
    await client.close()


@pytest.mark.parametrize("state", ["all wait", "one is away", "one is not placed", "one is paused", "one is buffered"])
async def test_what_is_wanted_is_what_aiokafka_would_want(short_and_long: SessionFetcher, state: str) -> None:
    """Given partitions in any state, then the short way asks the same of the same brokers, or leaves it to the long."""
    assignment = short_and_long._subscriptions.subscription.assignment
    place = TopicPartition("t", 1)
    match state:
        case "one is away":
            del short_and_long._client.cluster._partitions["t"][1]
        case "one is not placed":
            assignment.state_value(place).await_reset(-2)
        case "one is paused":
            assignment.state_value(place).pause()
        case "one is buffered":
            short_and_long._records[place] = FetchError(error=ValueError(), backoff=100.0)
        case _:
            pass

    def said(actions: Any) -> Any:
        requests, resets, seconds, is_unknown, resumed = actions
        asked = {node: {topic: sorted(each) for topic, each in request.topics} for node, request in requests}
        return asked, dict(resets), is_unknown, len(resumed), round(seconds, 1)

    short = said(short_and_long._get_actions_per_node(assignment))

    assert short == said(Fetcher._get_actions_per_node(short_and_long, assignment))
    assert bool(short_and_long._records or short_and_long._all_by_node(assignment) is None) == (state != "all wait")
    short_and_long._records.clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[FetchRequest_v11]:
    """The fetches that go out from now on."""
    seen: list[FetchRequest_v11] = []
    build = SessionRequest.build

    def noted(self: SessionRequest, request_struct_class: Any) -> Any:
        seen.append(build(self, request_struct_class))
        return seen[-1]

    monkeypatch.setattr(SessionRequest, "build", noted)
    return seen


@pytest.mark.stack
async def test_a_real_broker_keeps_the_session(stack: Any, asked: list[FetchRequest_v11]) -> None:
    """Given a reader of four partitions, when records come, sessions are lost and it seeks, then it misses nothing."""
    topic = await stack.new_topic(4)
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap_servers)
    await producer.start()
    reader: Any = KafkaBroker(stack.bootstrap_servers).consumer(GroupSettings(None))
    await reader.start()
    places = [TopicPartition(topic, number) for number in range(4)]
    reader.assign(places)
    await reader.seek_to_beginning(*places)

    async def read(count: int) -> list[bytes | None]:
        values: list[bytes | None] = []
        while len(values) < count:
            for records in (await reader.getmany(timeout_ms=10_000)).values():
                values.extend(record.value for record in records)
        return values

    for number in range(8):
        await producer.send_and_wait(topic, b"%d" % number, partition=number % 4)
        assert await read(1) == [b"%d" % number]
        if number == 3:
            (session,) = reader._fetcher._sessions.values()
            session._id += 1_000_000  # as if the broker had forgotten it
    reader.seek(places[2], 0)
    assert await read(2) == [b"2", b"6"]
    assert [reader.highwater(place) for place in places] == [2, 2, 2, 2]
    await reader.stop()
    await producer.stop()

    named = [sum(len(partitions) for _, partitions in request.topics) for request in asked]
    began = [request.session_epoch == 0 for request in asked]
    assert all(request.session_id for request, first in zip(asked, began, strict=True) if not first)
    assert {count for count, first in zip(named, began, strict=True) if first} == {4}
    assert max(count for count, first in zip(named, began, strict=True) if not first) < 4
    assert sum(began) == 2

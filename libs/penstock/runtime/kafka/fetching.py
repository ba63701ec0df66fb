"""Owns what a consumer asks its brokers for: what changed since it asked last, so that few partitions are spoken of.

aiokafka names all its partitions in every fetch and is told of all of them, written and read in Python field by field:
with twenty partitions that is more work than the few records it brings. In a fetch session (KIP-227) the broker
remembers the list: a fetch names the positions that moved, its answer the partitions that have news.
"""

import asyncio
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Final

from aiokafka.consumer import consumer, fetcher
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11

NO_SESSION: Final = 0
FIRST_EPOCH: Final = 0
EPOCH_MAX: Final = 2**31 - 1

_UNKNOWN: Final = -1

Place = tuple[str, int]
"""Topic and partition."""
Wanted = dict[Place, tuple[int, int]]
"""By place, the offset and the most bytes."""


class Session:
    """What one broker remembers. Where an answer was not read, the next fetch names everything again."""

    def __init__(self) -> None:
        self._id = NO_SESSION
        self._epoch = FIRST_EPOCH
        self._known: Wanted = {}
        self._asked: Wanted | None = None
        self.refusals = 0
        """Answers in a row that were errors. One is how a broker says that it knows the session no more."""

    def ask(self, wanted: Wanted) -> tuple[int, int, Wanted, Iterable[Place]]:
        """The session, its epoch, what to name and what to strike off, so that exactly `wanted` is asked for."""
        if self._asked is not None:
            self.forget()
        self._asked = wanted
        if self._epoch == FIRST_EPOCH:
            return self._id, FIRST_EPOCH, wanted, ()
        return self._id, self._epoch, dict(wanted.items() - self._known.items()), self._known.keys() - wanted.keys()

    def answered(self, session_id: int, error: int) -> None:
        """The broker's answer to the last fetch. A broker that has no room for sessions answers NO_SESSION."""
        asked, self._asked = self._asked, None
        self.refusals = self.refusals + 1 if error else 0
        if error or asked is None or session_id == NO_SESSION:
            self.forget()
            return
        self._id, self._known = session_id, asked
        self._epoch = self._epoch + 1 if self._epoch < EPOCH_MAX else FIRST_EPOCH + 1

    def forget(self) -> None:
        """Begin anew. The id is kept: a first fetch under it ends the old session at the broker."""
        self._epoch = FIRST_EPOCH
        self._known = {}
        self._asked = None


class SessionRequest(FetchRequest):  # type: ignore[misc]  # aiokafka's generic bases
    """Asks for what another request asks for, within a session."""

    def __init__(self, request: FetchRequest, session: Session) -> None:
        self.__dict__.update(request.__dict__)
        self._session = session

    def build(self, request_struct_class: Any) -> Any:
        """As bytes; as aiokafka has it where the broker is older than version 11."""
        if request_struct_class is not FetchRequest_v11:
            return super().build(request_struct_class)
        session_id, epoch, named, gone = self._session.ask(
            {
                (topic, partition): (offset, bytes_max)
                for topic, partitions in self._topics
                for partition, offset, bytes_max in partitions
            }
        )
        asked = FetchRequest_v11(
            _UNKNOWN,
            self._max_wait_ms,
            self._min_bytes,
            self._max_bytes,
            self._isolation_level,
            session_id,
            epoch,
            _by_topic(
                (topic, (partition, _UNKNOWN, offset, _UNKNOWN, bytes_max))
                for (topic, partition), (offset, bytes_max) in named.items()
            ),
            _by_topic(gone),
            self._rack_id,
        )
        asked.RESPONSE_TYPE = _Reader(self._session)
        return asked


class _Reader:
    """Reads the answer to one fetch, and lets the session know."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def decode(self, data: BytesIO) -> FetchResponse_v11:
        response = FetchResponse_v11.decode(data)
        self._session.answered(response.session_id, response.error_code)
        return response


def _by_topic(parts: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    grouped: dict[str, list[Any]] = {}
    for topic, part in parts:
        grouped.setdefault(topic, []).append(part)
    return list(grouped.items())


class SessionFetcher(fetcher.Fetcher):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's fetcher, with a session per broker for as long as its partitions stay the same."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._sessions: dict[Any, Session] = {}
        self._session_of: object = None
        super().__init__(*arguments, **options)

    async def _proc_fetch_request(self, assignment: Any, node_id: Any, request: FetchRequest) -> bool:
        if assignment is not self._session_of:
            # What is known of partitions is forgotten with an assignment, so that all must be told again.
            self._session_of = assignment
            for each in self._sessions.values():
                each.forget()
        session = self._sessions.get(node_id)
        if session is None:
            session = self._sessions[node_id] = Session()
        has_news: bool = await super()._proc_fetch_request(assignment, node_id, SessionRequest(request, session))
        if session.refusals > 1:
            await asyncio.sleep(self._retry_backoff)
        if has_news:  # now, and not once the task that fetches has looked at what is done
            for waiter in self._fetch_waiters:
                self._notify(waiter)
        return has_news

    async def fetched_records(
        self, partitions: Any, timeout: float = 0, max_records: int | None = None
    ) -> Any:  # aiokafka's name
        """aiokafka's, that waits for the one future it waits for."""
        until = self._loop.time() + timeout
        while True:
            drained = await super().fetched_records(partitions, 0, max_records)
            now = self._loop.time()
            if drained or now >= until:
                return drained
            waiter = self._create_fetch_waiter()
            timer = self._loop.call_at(until, self._notify, waiter)
            try:
                await waiter  # raises what the group's coordinator cannot get over
            finally:
                timer.cancel()
            if self._closed:
                return {}

    def _get_actions_per_node(self, assignment: Any) -> Any:
        """aiokafka's, without the detours where all partitions wait for their next fetch: most of the time."""
        by_node = None if self._records or self._in_flight else self._all_by_node(assignment)
        if by_node is None:
            return super()._get_actions_per_node(assignment)
        limits = (self._fetch_max_wait_ms, self._fetch_min_bytes, self._fetch_max_bytes, self._isolation_level)
        rack_id = self._client_rack or ""
        requests = [
            (node_id, FetchRequest(*limits, list(topics.items()), rack_id=rack_id))
            for node_id, topics in by_node.items()
        ]
        return requests, {}, self._fetcher_timeout, False, []

    def _all_by_node(self, assignment: Any) -> dict[Any, dict[str, list[tuple[int, int, int]]]] | None:
        """By node and topic, where each partition goes on; None where one of them needs something else than a fetch."""
        if self._preferred_read_replica:
            return None
        leader_of, state_of = self._client.cluster.leader_for_partition, assignment.state_value
        bytes_max = self._max_partition_fetch_bytes
        by_node: dict[Any, dict[str, list[tuple[int, int, int]]]] = {}
        for place in assignment.tps:
            node_id, state = leader_of(place), state_of(place)
            if node_id is None or node_id == _UNKNOWN or not state.has_valid_position or state.paused:
                return None
            topics = by_node.setdefault(node_id, {})
            topics.setdefault(place.topic, []).append((place.partition, state.position, bytes_max))
        return by_node


def install() -> None:
    """Make every consumer of this process ask so. Does nothing where it is done."""
    consumer.Fetcher = SessionFetcher

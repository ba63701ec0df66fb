"""Owns what is read of a request's record: once, when it is fetched, for the order, the engine and the answer alike."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from penstock.contracts.messages import InferenceRequested, Lane, WorkError
from penstock.runtime.errors import Poison
from penstock.runtime.kafka.records import Received
from penstock.runtime.work import BadRequestError, Work, read
from services.inference.core.admission import Reservation
from services.inference.core.expected import Step
from services.inference.core.refusals import Accepted, examined, unknown_model
from services.inference.core.schedule import Waiting

if TYPE_CHECKING:
    from services.inference.station import Station, Stations


class Ticket:
    """A record, and what it asks for. A `Received` as the one that it was made from.

    `fault` says why no engine is asked; `work` is there unless it is Poison or a bad request, and `accepted` unless
    there is a fault.
    """

    __slots__ = (
        "accepted",
        "began_at",
        "expected_tokens",
        "fault",
        "headers",
        "key",
        "lane",
        "mark",
        "offset",
        "partition",
        "reservation",
        "station",
        "step",
        "timestamp",
        "topic",
        "topic_index",
        "value",
        "waiting",
        "work",
    )
    work: Work[InferenceRequested]
    """What was read."""
    accepted: Accepted
    """What the engine is asked."""

    def __init__(self, record: Received) -> None:
        self.topic: Final[str] = record.topic
        self.partition: Final[int] = record.partition
        self.offset: Final[int] = record.offset
        self.timestamp: Final[int] = record.timestamp
        self.key: Final[bytes | None] = record.key
        self.value: Final[bytes | None] = record.value
        self.headers: Final[Sequence[tuple[str, bytes]]] = record.headers
        self.fault: Poison | BadRequestError | WorkError | None = None
        self.station: Station | None = None
        self.lane = Lane.STANDARD
        self.topic_index = 0
        """The lane's place among the consumer's topics."""
        self.step: Step = ("", "", "")
        self.expected_tokens = 0
        self.waiting: Waiting[Ticket] | None = None
        """Its place in the order of its engine, once it was offered there."""
        self.reservation: Reservation | None = None
        """Its place in the engine, while it has one."""
        self.began_at: float | None = None
        """When the engine was asked."""
        self.mark = 0.0

    def read(self, stations: "Stations", pool: str, home_partitions: int) -> None:
        """Reads the record, finds its engine, and examines what it asks for."""
        try:
            work = self.work = read(InferenceRequested, self, home_partitions)
        except (Poison, BadRequestError) as fault:
            self.fault = fault
            return
        request = work.request
        self.lane = request.priority
        self.step = (request.workflow, request.version, request.step)
        station = self.station = stations.serving(request.model, request.run_key)
        if station is None:
            self.fault = unknown_model(request.model, pool, stations.models)
            return
        engine = station.engine
        accepted = examined(request, engine.limits(request.model), engine.prompt_tokens)
        if isinstance(accepted, WorkError):
            self.fault = accepted
        else:
            self.accepted = accepted
            self.expected_tokens = 0 if request.operation == "embedding" else accepted.request.max_tokens


class Reader:
    """Reads the records of one instance."""

    def __init__(self, stations: "Stations", pool: str, home_partitions: int) -> None:
        self._stations: Final = stations
        self._pool: Final = pool
        self._home_partitions: Final = home_partitions

    def ticket(self, record: Received) -> Ticket:
        """The record with what it asks for; the same where that was read already."""
        if isinstance(record, Ticket):
            return record
        ticket = Ticket(record)
        ticket.read(self._stations, self._pool, self._home_partitions)
        return ticket

"""Owns how an executor reads a request for work and answers it: one completed and one usage record per attempt.

The values are put together from JSON fragments instead of message models, because a worker answers thousands a second
and the models cost more than the tasks; a test holds them to the models.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Generic, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError
from pydantic_core import from_json

from penstock.contracts.blobs import MARK
from penstock.contracts.envelope import Headers, MalformedEnvelopeError, Outgoing, decode, rfc3339
from penstock.contracts.ids import event_id
from penstock.contracts.messages import NextMove, UsageRecorded, WorkError, WorkRequested
from penstock.contracts.topics import USAGE_RECORDED, Service, Topic
from penstock.runtime.errors import PenstockError, Poison
from penstock.runtime.kafka.cancellations import WorkStoppedError
from penstock.runtime.kafka.records import Received, identity

OUTPUT_BYTES_MAX: Final = 512 * 1024
"""What travels where there is no blob store: a larger output would not fit the broker's record limit of 1 MiB."""

SUBJECT_CHARACTERS_MAX: Final = 256
"""Of the name of a model, tool or task that is taken over from a request that is wrong."""

ORCHESTRATOR: Final = b"penstock/orchestrator"
_JSON: Final = b"application/json"
NO_COST: Final[Mapping[str, str]] = {"amount": "0", "currency": "USD", "price_version": "none"}

R = TypeVar("R", bound=WorkRequested)


@dataclass(slots=True)
class Work(Generic[R]):
    """A request as it came off its topic. `cause` is its CloudEvents id, `requested_at_ms` the record's timestamp."""

    request: R
    cause: bytes
    traceparent: bytes | None
    requested_at_ms: int
    deadline_at_ms: float
    refers: bool = False
    """Whether the request may hold references to blobs: one look at its bytes, for most hold none."""

    def expired(self, at_ms: int) -> bool:
        """Whether nobody awaits the answer any more."""
        return at_ms >= self.deadline_at_ms


@dataclass(slots=True)
class Outcome:
    """How an attempt ended: `output` (JSON) or `error`, and what only this executor's messages hold.

    Times on one line, from the request's arrival on its topic: `queue_ms` until the work began, `total_ms` until it
    ended; an executor that streams adds `first_token_ms` between them.
    """

    started_at_ms: int
    elapsed_ms: float
    output: bytes | None = None
    error: WorkError | None = None
    first_token_ms: float | None = None
    completed: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, str] = field(default_factory=lambda: NO_COST)


def failed(code: str, message: str, next: NextMove = NextMove.GIVE_UP, retry_after_ms: int | None = None) -> WorkError:
    """A failure as a value; messages are cut, because they travel in every record of a run."""
    return WorkError(code=code, message=message[:2000], next=next, retry_after_ms=retry_after_ms)


def too_late(message: str) -> WorkError:
    """The attempt's deadline passed before its work began. The run may have time left: another attempt decides."""
    return failed("deadline_exceeded", message, NextMove.RETRY_ELSEWHERE)


def cancelled(error: WorkStoppedError) -> WorkError:
    """Nobody awaits the answer: this one is for the books, which count what was used until then."""
    return failed("cancelled", f"stopped, because {error}")


class BadRequestError(PenstockError):
    """What is asked cannot be read, who asks can: `error` is the answer to `work`'s run, which then waits no longer.

    `body` is the request as it came.
    """

    def __init__(self, work: Work[WorkRequested], body: Mapping[str, Any], error: WorkError) -> None:
        super().__init__(error.message)
        self.work = work
        self.body = body
        self.error = error


def read(message: type[R], record: Received, home_partitions: int) -> Work[R]:
    """The request that a record holds.

    Raises Poison where nobody could ever read or answer it, BadRequestError where only what is asked is wrong.
    """
    try:
        cause, traceparent, value = _envelope(record)
    except MalformedEnvelopeError as error:
        raise Poison(f"not a {message.__name__}: {error}") from error
    try:
        request: R = message.__pydantic_validator__.validate_json(value)
    except ValidationError as error:
        reason = _reason(error)
        try:
            asked = WorkRequested.model_validate_json(value)
        except ValidationError:
            raise Poison(f"not a {message.__name__}: {reason}") from error
        bad = failed("bad_request", f"not a {message.__name__}: {reason}")
        raise BadRequestError(
            _work(asked, cause, traceparent, record, home_partitions), from_json(value), bad
        ) from error
    return _work(request, cause, traceparent, record, home_partitions)


def _work(request: R, cause: bytes, traceparent: bytes | None, record: Received, home_partitions: int) -> Work[R]:
    if not 0 <= request.home < home_partitions:
        raise Poison(f"home {request.home} is not one of {home_partitions} partitions: nobody could be answered")
    refers = record.value is not None and MARK in record.value
    return Work(request, cause, traceparent, record.timestamp, request.deadline.timestamp() * 1000, refers)


def request_identity(record: Received) -> str:
    """What makes two deliveries the same request: its id, whatever events carry it; else what makes the same event."""
    ours, event = False, None
    for name, raw in record.headers:
        if name == "ce_source":
            ours = raw == ORCHESTRATOR
        elif name == "ce_id":
            event = raw
        if ours and event:  # its events are called as its requests are
            return f"request {event.decode(errors='replace')}"
    try:
        return f"request {UUID(orjson.loads(_envelope(record)[2])['request_id'])}"
    except (MalformedEnvelopeError, AttributeError, KeyError, TypeError, ValueError):
        return identity(record)


class Answers:
    """Writes the two records that answer a request, for one service and one topic of outcomes."""

    __slots__ = ("_completed", "_completed_headers", "_executor", "_kind", "_usage_headers")

    def __init__(
        self,
        service: Service,
        completed: Topic[Any],
        kind: Literal["inference", "tool", "task"],
        executor: str,
    ) -> None:
        self._completed: Final = completed
        self._completed_headers: Final = _FixedHeaders(service, completed)
        self._usage_headers: Final = _FixedHeaders(service, USAGE_RECORDED)
        self._kind: Final = kind
        self._executor: Final = executor

    def records(self, work: Work[Any], subject: str, outcome: Outcome) -> list[Outgoing]:
        """The outcome, sent to the run's home, and what it used."""
        outcome = _limited(outcome)
        request: WorkRequested = work.request
        finished_at = _rfc3339(outcome.started_at_ms + int(outcome.elapsed_ms))
        attribution = _attribution(request)[:-1] + b","
        queue_ms = max(0, outcome.started_at_ms - work.requested_at_ms)
        timing: dict[str, float] = {"queue_ms": queue_ms, "total_ms": round(queue_ms + outcome.elapsed_ms, 3)}
        if outcome.first_token_ms is not None:
            timing["first_token_ms"] = round(queue_ms + outcome.first_token_ms, 3)
        status = "succeeded" if outcome.error is None else "failed"
        completed = {
            "status": status,
            "executor": self._executor,
            "started_at": _rfc3339(outcome.started_at_ms),
            "finished_at": finished_at,
            **outcome.completed,
        }
        if self._kind == "inference":
            completed["timing"] = timing
        usage = {
            "kind": self._kind,
            "status": status,
            "subject": subject,
            "timing": timing,
            "cost": outcome.cost,
            "recorded_at": finished_at,
            **outcome.usage,
        }
        run_key = orjson.dumps(request.run_key)[1:-1]  # as str() would, in a fifth of the time
        headers = _headers_of(work, finished_at.encode())
        return [
            Outgoing(
                topic=self._completed.name,
                key=run_key,
                value=_with_result(attribution + orjson.dumps(completed)[1:], outcome),
                headers=self._completed_headers.beside(headers, request.request_id),
                partition=request.home,
            ),
            Outgoing(
                topic=USAGE_RECORDED.name,
                key=request.tenant.encode(),
                value=attribution + orjson.dumps(usage)[1:],
                headers=self._usage_headers.beside(headers, request.request_id),
            ),
        ]

    def bad_request(
        self, bad: BadRequestError, at_ms: int, *, of_kind: Mapping[str, Any] | None = None
    ) -> list[Outgoing]:
        """The answer to a request that cannot be read. `of_kind` is what this kind's outcomes have beside others'."""
        name = _SUBJECTS[self._kind]
        subject = bad.body.get(name)
        subject = subject[:SUBJECT_CHARACTERS_MAX] if isinstance(subject, str) else ""
        kind = dict(of_kind or {})
        outcome = Outcome(at_ms, 0.0, error=bad.error, completed={name: subject, **kind}, usage=kind)
        return self.records(bad.work, subject, outcome)

    @property
    def topics(self) -> tuple[str, ...]:
        """Where the two records go, the outcome first."""
        return (self._completed.name, USAGE_RECORDED.name)

    def usage_again(self, requested: Received, completed: Received) -> list[Outgoing]:
        """The usage record of an outcome that went out alone, because its executor died between the two.

        Raises ValueError for an outcome that is none of ours.
        """
        try:
            work = read(WorkRequested, requested, sys.maxsize)
            usage = self._usage_of(work, orjson.loads(completed.value or b""))
        except (KeyError, TypeError, ValueError, Poison) as error:
            raise ValueError(f"not an outcome of {self._executor}: {error!r}") from error
        request = work.request
        headers = _headers_of(work, rfc3339(int(usage.recorded_at.timestamp() * 1000)).encode())
        return [
            Outgoing(
                topic=USAGE_RECORDED.name,
                key=request.tenant.encode(),
                value=usage.to_json(),
                headers=self._usage_headers.beside(headers, request.request_id),
            )
        ]

    def _usage_of(self, work: Work[WorkRequested], completed: dict[str, Any]) -> UsageRecorded:
        started_at, finished_at = (datetime.fromisoformat(completed[name]) for name in ("started_at", "finished_at"))
        queue_ms = max(0, int(started_at.timestamp() * 1000) - work.requested_at_ms)
        elapsed_ms = (finished_at - started_at).total_seconds() * 1000
        model: dict[str, Any] = {}
        if self._kind == "inference":
            model = {name: completed[name] for name in ("pool", "engine", "simulated")}
            model |= {"lane": work.request.priority, "tokens": completed["usage"]}
            model |= {name: completed[name] for name in _SHARE if name in completed}
        return UsageRecorded.model_validate(
            {
                **orjson.loads(_attribution(work.request)),
                "kind": self._kind,
                "status": completed["status"],
                "subject": completed[_SUBJECTS[self._kind]],
                "timing": completed.get("timing") or {"queue_ms": queue_ms, "total_ms": queue_ms + elapsed_ms},
                "cost": completed.get("cost") or NO_COST,
                "recorded_at": completed["finished_at"],
                **model,
            }
        )


_SHARE: Final = ("adapter", "gpu_seconds", "gpu_type", "energy_joules", "engine_session")
"""What an outcome says of its share of an engine, in the words of the usage record."""
_SUBJECTS: Final = {"inference": "model", "tool": "tool", "task": "task"}


class _FixedHeaders:
    """The CloudEvents headers of one topic: all that is the same for every record is encoded once."""

    __slots__ = ("_event_type", "_fixed")

    def __init__(self, service: Service, topic: Topic[Any]) -> None:
        self._event_type: Final = topic.event_type
        self._fixed: Final = (
            ("ce_specversion", b"1.0"),
            ("ce_type", topic.event_type.encode()),
            # Without the instance: a redelivery to another one must give the same (source, id).
            ("ce_source", f"penstock/{service.value}".encode()),
            ("content-type", b"application/json"),
        )

    def beside(self, of_the_work: Headers, request_id: UUID) -> Headers:
        return [*self._fixed, ("ce_id", event_id(request_id, self._event_type).encode()), *of_the_work]


def _headers_of(work: Work[Any], at: bytes) -> Headers:
    """The headers that both answers of one request share."""
    request: WorkRequested = work.request
    headers = [
        ("ce_time", at),
        ("ce_tenant", request.tenant.encode()),
        ("ce_correlationid", request.run_id.encode()),
        ("ce_causationid", work.cause),
    ]
    if work.traceparent is not None:
        headers.append(("traceparent", work.traceparent))
    return headers


def _with_result(value: bytes, outcome: Outcome) -> bytes:
    if outcome.error is not None:
        return value[:-1] + b',"error":' + outcome.error.to_json() + b"}"
    return value[:-1] + b',"output":' + (outcome.output or b"null") + b"}"


def _limited(outcome: Outcome) -> Outcome:
    if outcome.output is None or len(outcome.output) <= OUTPUT_BYTES_MAX:
        return outcome
    message = f"the output has {len(outcome.output)} bytes, the limit without a blob store is {OUTPUT_BYTES_MAX}"
    return replace(outcome, output=None, error=failed("value_too_large", message))


def _attribution(request: WorkRequested) -> bytes:
    return orjson.dumps(
        {
            "request_id": request.request_id,
            "tenant": request.tenant,
            "run_key": request.run_key,
            "run_id": request.run_id,
            "home": request.home,
            "workflow": request.workflow,
            "version": request.version,
            "step": request.step,
            "attempt": request.attempt,
            "labels": request.labels,
        }
    )


def _envelope(record: Received) -> tuple[bytes, bytes | None, bytes]:
    """Cause, traceparent and body. Our own records are read at a glance, anybody else's by the book."""
    named = dict(record.headers)
    cause = named.get("ce_id")
    if cause and record.value is not None and named.get("content-type", _JSON) == _JSON and _plain(named):
        return cause, named.get("traceparent"), record.value
    envelope, value = decode(
        record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
    )
    parent = envelope.traceparent
    return envelope.id.encode(), None if parent is None else parent.encode(), value


def _plain(headers: dict[str, bytes]) -> bool:
    try:
        return b"".join(headers.values()).isascii()
    except TypeError:  # a header without a value
        return False


def _reason(error: Exception) -> str:
    """Where the record is wrong, without its contents: a dead letter's headers are read by more people."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in faults)


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


@lru_cache(maxsize=64)  # what does not wait begins and ends in the same millisecond as its neighbours
def _rfc3339(at_ms: int) -> str:
    return f"{_second(at_ms // 1000)}{at_ms % 1000:03d}Z"

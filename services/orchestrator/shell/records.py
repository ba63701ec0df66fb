"""Owns writing: turns what the core decided into records, with ids that derive from their causes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Headers, Heading, Outgoing
from penstock.contracts.messages import (
    CapNeared,
    Failure,
    InferenceRequested,
    Lane,
    Message,
    RunFinished,
    RunSignalled,
    RunStart,
    SignalKind,
    StepChange,
    TaskRequested,
    ToolRequested,
    WorkCancelled,
)
from penstock.runtime.kafka.records import Received
from services.orchestrator.core.children import ChildAbandoned, ChildRequested
from services.orchestrator.core.state import Request, Run, RunStatus

SOURCE: Final = "penstock/orchestrator"


def topic_name(request: Request | ChildRequested) -> str:
    """The broker topic that a request goes to."""
    match request:
        case InferenceRequested():
            return _inference_topic(request.pool, request.priority)
        case TaskRequested():
            return _task_topic(request.queue)
        case ToolRequested():
            return topics.TOOL_REQUESTED.name
        case ChildRequested():
            return topics.RUN_REQUESTED.name


@cache
def _inference_topic(pool: str, lane: Lane) -> str:
    return topics.INFERENCE_REQUESTED.named(pool=pool, lane=lane.value)


@cache
def _task_topic(queue: str) -> str:
    return topics.TASK_REQUESTED.named(queue=queue)


_HEADINGS: Final = {
    InferenceRequested: Heading(topics.INFERENCE_REQUESTED, SOURCE),
    ToolRequested: Heading(topics.TOOL_REQUESTED, SOURCE),
    TaskRequested: Heading(topics.TASK_REQUESTED, SOURCE),
    ChildRequested: Heading(topics.RUN_REQUESTED, SOURCE),
}
_SIGNALLED: Final = Heading(topics.RUN_SIGNALLED, SOURCE)
_CANCELLED: Final = Heading(topics.WORK_CANCELLED, SOURCE)
_PROGRESSED: Final = Heading(topics.RUN_PROGRESSED, SOURCE)
_FINISHED: Final = Heading(topics.RUN_FINISHED, SOURCE)


class Voice:
    """What all that is said about one run in one batch shares, encoded once."""

    __slots__ = ("_at", "_tenant", "_trace", "run_id")

    def __init__(self, run: Run, at: bytes) -> None:
        self._at: Final = at
        self._tenant: Final = run.tenant.encode()
        self._trace: Final = trace_of(run)
        self.run_id: Final = run.run_id.encode()

    def headers(self, heading: Heading, event_id: str, cause: str, span: str, run_id: bytes | None = None) -> Headers:
        """The headers of one record; `span` is a W3C span id, `run_id` another run's that it is about."""
        return heading.headers(
            event_id,
            self._at,
            self._tenant,
            self.run_id if run_id is None else run_id,
            cause,
            ids.traceparent(self._trace, span),
        )


def trace_of(run: Run) -> str:
    """The W3C trace id: the caller's, or one made of the run's key."""
    return run.traceparent[3:35] if run.traceparent else ids.trace_id(run.key)


def request_record(voice: Voice, request: Request | ChildRequested, cause: str) -> Outgoing:
    """A request for work; its id is the request id, so that a repetition is known as one.

    A child run's key is its own run id, which spreads children over all homes.
    """
    request_id = str(request.request_id)
    return Outgoing(
        topic=topic_name(request),
        key=_child_key(request.request_id) if isinstance(request, ChildRequested) else voice.run_id,
        value=request.to_json(),
        headers=voice.headers(_HEADINGS[type(request)], request_id, cause, ids.span_id(request.request_id)),
    )


def abandoned_record(voice: Voice, child: ChildAbandoned, cause: str) -> Outgoing:
    """The cancel of a child run: by the key of its request, so it goes to the same partition number."""
    return Outgoing(
        topic=topics.RUN_SIGNALLED.name,
        key=_child_key(child.request_id),
        value=child.message.to_json(),
        headers=voice.headers(
            _SIGNALLED,
            f"{child.request_id}/abandoned",
            cause,
            ids.span_id(child.request_id),
            child.message.run_id.encode(),
        ),
    )


def cancelled_record(voice: Voice, cancelled: WorkCancelled, cause: str) -> Outgoing:
    """That nobody awaits a request any more; its id derives from the request's, so a repetition is known as one."""
    return Outgoing(
        topic=topics.WORK_CANCELLED.name,
        key=voice.run_id,
        value=cancelled.to_json(),
        headers=voice.headers(
            _CANCELLED, f"{cancelled.request_id}/cancelled", cause, ids.span_id(cancelled.request_id)
        ),
        partition=0,
    )


def child_finished_record(voice: Voice, run: Run, finished: RunFinished, cause: str, homes: int) -> Outgoing | None:
    """What a child run's end says to the step that awaits it, at its home; None where nobody does."""
    parent = run.parent
    if parent is None or not parent.awaited:
        return None
    signal = RunSignalled(
        run_id=parent.run_id, tenant=run.tenant, kind=SignalKind.CHILD_FINISHED, parent=parent, finished=finished
    )
    run_id = parent.run_id.encode()
    return Outgoing(
        topic=topics.RUN_SIGNALLED.name,
        key=run_id,
        value=signal.to_json(),
        headers=voice.headers(
            _SIGNALLED,
            f"{run.key.hex}/answer/{run.sequence}",
            cause,
            ids.span_id(parent.request_id),
            run_id,
        ),
        # A parent is what a request says it is; one that claims a partition that is none is looked for by its key.
        partition=parent.home if parent.home < homes else None,
    )


def _child_key(request_id: UUID) -> bytes:
    return ids.child_run_id(request_id).encode()


class Progress(NamedTuple):
    """What one record tells of a run, next to what the run says of itself."""

    status: RunStatus
    start: RunStart | None
    changes: Sequence[StepChange]
    error: Failure | None
    at: datetime
    caps_neared: Sequence[CapNeared] = ()


def progress_record(voice: Voice, run: Run, progress: Progress, cause: str) -> Outgoing:
    """What changed in a run, as a RunProgressed; the id is made of the run and the sequence.

    There is one per run and batch, so the body is written without building the model; a test reads it back as one.
    """
    body: dict[str, Any] = {
        "run_key": run.key,
        "run_id": run.run_id,
        "tenant": run.tenant,
        "workflow": run.workflow,
        "version": run.version,
        "labels": run.labels,
        "sequence": run.sequence,
        "status": progress.status,
        "changes": [_without_none(change) for change in progress.changes],
        "at": progress.at,
    }
    if progress.start is not None:
        body["start"] = progress.start
    if run.undoing is not None:
        body["undoing"] = True
    if progress.error is not None:
        body["error"] = progress.error
    if progress.caps_neared:
        body["caps_neared"] = progress.caps_neared
    if run.usage.model_calls:
        body["usage"] = run.usage.to_message()
    value = orjson.dumps(body, _plain, orjson.OPT_UTC_Z)
    return _about_run(topics.RUN_PROGRESSED.name, _PROGRESSED, voice, run, value, "progress", cause)


def _without_none(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.__dict__.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return _without_none(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no place in a progress record")


def finished_record(voice: Voice, run: Run, finished: RunFinished, cause: str) -> Outgoing:
    """A run's end. A run that is redriven ends again, under another id."""
    return _about_run(topics.RUN_FINISHED.name, _FINISHED, voice, run, finished.to_json(), "finished", cause)


def _about_run(  # what makes a record
    topic: str, heading: Heading, voice: Voice, run: Run, value: bytes, event: str, cause: str
) -> Outgoing:
    key = run.key.hex
    headers = voice.headers(heading, f"{key}/{event}/{run.sequence}", cause, key[:16])
    return Outgoing(topic=topic, key=voice.run_id, value=value, headers=headers)


def instant(at_ms: int) -> datetime:
    """Milliseconds since 1970 as an aware time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def forwarded(record: Received, home: int) -> Outgoing:
    """A signal that landed away from its run's home, on its way there, byte for byte."""
    return Outgoing(
        topic=record.topic, key=record.key, value=record.value or b"", headers=list(record.headers), partition=home
    )

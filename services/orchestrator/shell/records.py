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
    TaskRequested,
    ToolRequested,
    WorkCancelled,
)
from penstock.runtime.kafka.records import Received
from services.orchestrator.core.children import ChildAbandoned, ChildRequested
from services.orchestrator.core.state import Change, Decision, Request, Run, RunStatus, Usage

SOURCE: Final = "penstock/orchestrator"


def topic_name(request: Request) -> str:
    """The broker topic that a request to an executor goes to."""
    match request:
        case InferenceRequested():
            return _inference_topic(request.pool, request.priority)
        case TaskRequested():
            return _task_topic(request.queue)
        case ToolRequested():
            return topics.TOOL_REQUESTED.name


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

    __slots__ = ("_shared", "_trace", "key", "run_id")

    def __init__(self, run: Run, at: bytes) -> None:
        self.key: Final = run.key.hex
        # The caller's W3C trace, or one made of the run's key.
        self._trace: Final = run.traceparent[3:35] if run.traceparent else self.key
        self.run_id: Final = run.run_id.encode()
        self._shared: Final = (("ce_time", at), ("ce_tenant", run.tenant.encode()))

    def headers(self, heading: Heading, event_id: str, cause: str, span: str, run_id: bytes | None = None) -> Headers:
        """The headers of one record; `span` is a W3C span id, `run_id` another run's that it is about."""
        return [
            *heading.shared,
            *self._shared,
            ("ce_id", event_id.encode()),
            ("ce_correlationid", self.run_id if run_id is None else run_id),
            ("ce_causationid", cause.encode()),
            ("traceparent", ids.traceparent(self._trace, span).encode()),
        ]


def request_record(voice: Voice, request: Request | ChildRequested, cause: str) -> Outgoing:
    """A request for work; its id is the request id, so that a repetition is known as one.

    A child run's key is its own run id, which spreads children over all homes.
    """
    request_id = str(request.request_id)
    headers = voice.headers(_HEADINGS[type(request)], request_id, cause, request_id.replace("-", "")[:16])
    if isinstance(request, ChildRequested):
        return Outgoing(topics.RUN_REQUESTED.name, _child_key(request.request_id), request.to_json(), headers)
    return Outgoing(topic_name(request), voice.run_id, _written(_without_none(request)), headers)


def withdrawn_records(voice: Voice, decision: Decision, cause: str) -> list[Outgoing]:
    """That a decision does not await children and requests any more."""
    abandoned = [_abandoned_record(voice, child, cause) for child in decision.abandoned]
    return abandoned + [_cancelled_record(voice, each, cause) for each in decision.cancellations]


def _abandoned_record(voice: Voice, child: ChildAbandoned, cause: str) -> Outgoing:
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


def _cancelled_record(voice: Voice, cancelled: WorkCancelled, cause: str) -> Outgoing:
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
            f"{voice.key}/answer/{run.sequence}",
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
    changes: Sequence[Change]
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
        "changes": progress.changes,
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
        body["usage"] = _usage(run.usage)
    return _about_run(topics.RUN_PROGRESSED.name, _PROGRESSED, voice, run, _written(body), "progress", cause)


def _usage(usage: Usage) -> dict[str, Any]:
    """The same as `usage.to_message()` is written."""
    return {
        "model_calls": usage.model_calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": {"amount": format(usage.cost, "f"), "currency": usage.currency},
    }


def _written(body: dict[str, Any]) -> bytes:
    """A body of our own making as the models would write it: what they do beside leaving out None is not needed."""
    return orjson.dumps(body, _plain, orjson.OPT_UTC_Z)


def _without_none(message: Message) -> dict[str, Any]:
    body = message.__dict__
    absent = [name for name in _optional(type(message)) if body[name] is None]
    if absent:
        body = body.copy()
        for name in absent:
            del body[name]
    return body


@cache
def _optional(message: type[Message]) -> tuple[str, ...]:
    """The fields that are left out where they are None."""
    return tuple(name for name, field in message.model_fields.items() if field.default is None)


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return _without_none(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no place in a record")


def finished_record(voice: Voice, run: Run, finished: RunFinished, cause: str) -> Outgoing:
    """A run's end. A run that is redriven ends again, under another id."""
    body = _without_none(finished)
    if finished.status == "completed" and finished.output is None:
        body["output"] = None  # null is an output
    return _about_run(topics.RUN_FINISHED.name, _FINISHED, voice, run, _written(body), "finished", cause)


def _about_run(  # what makes a record
    topic: str, heading: Heading, voice: Voice, run: Run, value: bytes, event: str, cause: str
) -> Outgoing:
    headers = voice.headers(heading, f"{voice.key}/{event}/{run.sequence}", cause, voice.key[:16])
    return Outgoing(topic, voice.run_id, value, headers)


def instant(at_ms: int) -> datetime:
    """Milliseconds since 1970 as an aware time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def forwarded(record: Received, home: int) -> Outgoing:
    """A signal that landed away from its run's home, on its way there, byte for byte."""
    return Outgoing(
        topic=record.topic, key=record.key, value=record.value or b"", headers=list(record.headers), partition=home
    )

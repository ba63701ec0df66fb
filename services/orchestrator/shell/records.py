"""Owns writing: turns what the core decided into records, with ids that derive from their causes."""

from datetime import UTC, datetime

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Envelope, Outgoing, encode
from penstock.contracts.messages import (
    InferenceRequested,
    RunFinished,
    RunProgressed,
    TaskRequested,
    ToolRequested,
    WorkRequested,
)
from penstock.runtime.kafka.records import Received
from services.orchestrator.core.state import Run

SOURCE = "penstock/orchestrator"


def topic_name(request: WorkRequested) -> str:
    """The broker topic that a request goes to."""
    match request:
        case InferenceRequested():
            return topics.INFERENCE_REQUESTED.named(pool=request.pool, lane=request.priority.value)
        case TaskRequested():
            return topics.TASK_REQUESTED.named(queue=request.queue)
        case ToolRequested():
            return topics.TOOL_REQUESTED.name
        case _:
            raise TypeError(f"no topic carries {type(request).__name__}")


_FAMILY: dict[type[WorkRequested], topics.Topic] = {  # type: ignore[type-arg]  # the message is the dict's key
    InferenceRequested: topics.INFERENCE_REQUESTED,
    ToolRequested: topics.TOOL_REQUESTED,
    TaskRequested: topics.TASK_REQUESTED,
}


def trace_of(run: Run) -> str:
    """The W3C trace id: the caller's, or one made of the run's key."""
    return run.traceparent[3:35] if run.traceparent else ids.trace_id(run.key)


def request_record(run: Run, request: WorkRequested, cause: str, at: str) -> Outgoing:
    """A request for work; its id is the request id, so that a repetition is known as one."""
    topic = _FAMILY[type(request)]
    envelope = Envelope(
        id=str(request.request_id),
        type=topic.event_type,
        source=SOURCE,
        time=at,
        tenant=run.tenant,
        correlation_id=run.run_id,
        causation_id=cause,
        traceparent=ids.traceparent(trace_of(run), ids.span_id(request.request_id)),
    )
    return encode(topic, request, envelope, key=run.run_id, name=topic_name(request))


def progress_record(run: Run, progress: RunProgressed, cause: str, at: str) -> Outgoing:
    """What changed in a run; the id is made of the run and the sequence."""
    return _about_run(topics.RUN_PROGRESSED, run, progress, f"{run.key}/progress/{progress.sequence}", cause, at)


def finished_record(run: Run, finished: RunFinished, cause: str, at: str) -> Outgoing:
    """A run's end. A run that is redriven ends again, under another id."""
    return _about_run(topics.RUN_FINISHED, run, finished, f"{run.key}/finished/{run.sequence}", cause, at)


def _about_run(
    topic: topics.Topic,  # type: ignore[type-arg]  # either of two, with its own message
    run: Run,
    message: RunProgressed | RunFinished,
    event: str,
    cause: str,
    at: str,
) -> Outgoing:
    envelope = Envelope(
        id=event,
        type=topic.event_type,
        source=SOURCE,
        time=at,
        tenant=run.tenant,
        correlation_id=run.run_id,
        causation_id=cause,
        traceparent=ids.traceparent(trace_of(run), ids.span_id(run.key)),
    )
    return encode(topic, message, envelope, key=run.run_id)


def instant(at_ms: int) -> datetime:
    """Milliseconds since 1970 as an aware time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def forwarded(record: Received, home: int) -> Outgoing:
    """A signal that landed away from its run's home, on its way there, byte for byte."""
    return Outgoing(
        topic=record.topic, key=record.key, value=record.value or b"", headers=list(record.headers), partition=home
    )

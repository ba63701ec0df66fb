"""Owns writing: turns what the core decided into records, with ids that derive from their causes."""

from datetime import UTC, datetime
from functools import cache
from typing import Final

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Heading, Outgoing
from penstock.contracts.messages import (
    InferenceRequested,
    Lane,
    Message,
    RunFinished,
    RunProgressed,
    TaskRequested,
    ToolRequested,
)
from penstock.runtime.kafka.records import Received
from services.orchestrator.core.state import Request, Run

SOURCE: Final = "penstock/orchestrator"


def topic_name(request: Request) -> str:
    """The broker topic that a request goes to."""
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
}
_PROGRESSED: Final = Heading(topics.RUN_PROGRESSED, SOURCE)
_FINISHED: Final = Heading(topics.RUN_FINISHED, SOURCE)


def trace_of(run: Run) -> str:
    """The W3C trace id: the caller's, or one made of the run's key."""
    return run.traceparent[3:35] if run.traceparent else ids.trace_id(run.key)


def request_record(run: Run, request: Request, cause: str, at: bytes) -> Outgoing:
    """A request for work; its id is the request id, so that a repetition is known as one."""
    run_id, trace = run.run_id.encode(), ids.traceparent(trace_of(run), ids.span_id(request.request_id))
    heading = _HEADINGS[type(request)]
    return Outgoing(
        topic=topic_name(request),
        key=run_id,
        value=request.to_json(),
        headers=heading.headers(str(request.request_id), at, run.tenant, run_id, cause, trace),
    )


def progress_record(run: Run, progress: RunProgressed, cause: str, at: bytes) -> Outgoing:
    """What changed in a run; the id is made of the run and the sequence."""
    event_id = f"{run.key.hex}/progress/{progress.sequence}"
    return _about_run(topics.RUN_PROGRESSED.name, _PROGRESSED, run, progress, event_id, cause, at)


def finished_record(run: Run, finished: RunFinished, cause: str, at: bytes) -> Outgoing:
    """A run's end. A run that is redriven ends again, under another id."""
    event_id = f"{run.key.hex}/finished/{run.sequence}"
    return _about_run(topics.RUN_FINISHED.name, _FINISHED, run, finished, event_id, cause, at)


def _about_run(  # what makes a record
    topic: str, heading: Heading, run: Run, message: Message, event_id: str, cause: str, at: bytes
) -> Outgoing:
    run_id, trace = run.run_id.encode(), ids.traceparent(trace_of(run), ids.span_id(run.key))
    headers = heading.headers(event_id, at, run.tenant, run_id, cause, trace)
    return Outgoing(topic=topic, key=run_id, value=message.to_json(), headers=headers)


def instant(at_ms: int) -> datetime:
    """Milliseconds since 1970 as an aware time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def forwarded(record: Received, home: int) -> Outgoing:
    """A signal that landed away from its run's home, on its way there, byte for byte."""
    return Outgoing(
        topic=record.topic, key=record.key, value=record.value or b"", headers=list(record.headers), partition=home
    )

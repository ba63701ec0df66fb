"""Owns reading: turns a record into something that the core can decide on, or says why it cannot be read."""

from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from pydantic import ValidationError

from penstock.contracts import ids, topics
from penstock.contracts.envelope import Envelope, MalformedEnvelopeError, decode, decode_body, has_identity
from penstock.contracts.messages import (
    InferenceCompleted,
    RunRequested,
    RunSignalled,
    TaskCompleted,
    ToolCompleted,
    WorkCompleted,
)
from penstock.runtime.kafka.records import Received

_FAULTS_SHOWN_MAX = 8

_OUTCOMES: dict[str, Callable[[bytes], WorkCompleted]] = {
    topic.name: model.__pydantic_validator__.validate_json  # what model_validate_json calls, among much else
    for topic, model in (
        (topics.INFERENCE_COMPLETED, InferenceCompleted),
        (topics.TOOL_COMPLETED, ToolCompleted),
        (topics.TASK_COMPLETED, TaskCompleted),
    )
}


class Requested(NamedTuple):
    """A run is asked for."""

    record: Received
    envelope: Envelope
    run_key: UUID
    tenant: str
    run_id: str
    request: RunRequested


class Rejected(NamedTuple):
    """A run is asked for in a way that cannot be served, but it says which run it is."""

    record: Received
    envelope: Envelope
    run_key: UUID
    tenant: str
    run_id: str
    workflow: str
    reason: str


class Answered(NamedTuple):
    """An executor's outcome."""

    record: Received
    event_id: str
    run_key: UUID
    outcome: WorkCompleted


class Signalled(NamedTuple):
    """Something is said to a run."""

    record: Received
    event_id: str
    run_key: UUID
    signal: RunSignalled


class Unreadable(NamedTuple):
    """Poison: the record goes to its dead letter topic."""

    record: Received
    reason: str


Input = Requested | Rejected | Answered | Signalled | Unreadable


def read(record: Received) -> Input:
    """What a record of the orchestrator's input topics says. Never raises for what a sender can do wrong."""
    try:
        if record.topic == topics.RUN_REQUESTED.name:
            return _read_request(record)
        event_id, body = decode_body(record.headers, record.value)
        event_id = event_id or _position(record)
        if record.topic == topics.RUN_SIGNALLED.name:
            signal = RunSignalled.model_validate_json(body)
            return Signalled(record, event_id, ids.run_key(signal.tenant, signal.run_id), signal)
        outcome = _OUTCOMES[record.topic](body)
    except MalformedEnvelopeError as error:
        return Unreadable(record, str(error))
    except ValidationError as error:
        return Unreadable(record, explain(error))
    if outcome.home != record.partition:
        return Unreadable(record, f"arrived on partition {record.partition}, the run's home is {outcome.home}")
    return Answered(record, event_id, outcome.run_key, outcome)


def _read_request(record: Received) -> Input:
    envelope, body = decode(
        record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
    )
    try:
        request = RunRequested.model_validate_json(body)
    except ValidationError as error:
        return _reject(record, envelope, body, explain(error))
    tenant = request.tenant or envelope.tenant
    if not ids.TENANT_PATTERN.fullmatch(tenant):
        return Unreadable(record, f"ce_tenant {tenant!r} is not a tenant name ({ids.TENANT_PATTERN.pattern})")
    run_id = request.run_id or _derived_run_id(record, envelope)
    return Requested(record, envelope, ids.run_key(tenant, run_id), tenant, run_id, request)


def _derived_run_id(record: Received, envelope: Envelope) -> str:
    if has_identity(record.headers) or envelope.id != _position(record):
        return ids.run_id_from_event(envelope.source, envelope.id)
    return ids.run_id_from_position(record.topic, record.partition, record.offset)


def _position(record: Received) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _reject(record: Received, envelope: Envelope, body: bytes, reason: str) -> Input:
    """A request that names its run and tenant properly gets an answer; any other is a dead letter."""
    try:
        said: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Unreadable(record, reason)
    if not isinstance(said, dict):
        return Unreadable(record, reason)
    run_id, tenant, workflow = said.get("run_id"), said.get("tenant", envelope.tenant), said.get("workflow", "")
    if not (isinstance(run_id, str) and ids.RUN_ID_PATTERN.fullmatch(run_id)):
        return Unreadable(record, reason)
    if not (isinstance(tenant, str) and ids.TENANT_PATTERN.fullmatch(tenant)):
        return Unreadable(record, reason)
    named = workflow if isinstance(workflow, str) and len(workflow) <= 256 else ""
    return Rejected(record, envelope, ids.run_key(tenant, run_id), tenant, run_id, named, reason)


def explain(error: ValidationError) -> str:
    """A validation error in one line: the path of each fault and what is wrong there."""
    faults = error.errors(include_url=False, include_input=False)
    shown = [f"{'.'.join(str(part) for part in fault['loc']) or '$'}: {fault['msg']}" for fault in faults]
    more = f" (and {len(shown) - _FAULTS_SHOWN_MAX} more)" if len(shown) > _FAULTS_SHOWN_MAX else ""
    return "; ".join(shown[:_FAULTS_SHOWN_MAX]) + more

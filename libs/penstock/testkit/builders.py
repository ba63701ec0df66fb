"""Owns what tests are built from: valid messages and definitions, each with only what the test cares about named."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, overload
from uuid import UUID

from penstock.contracts.messages import (
    CapacityReported,
    InferenceCompleted,
    InferenceRequested,
    NextMove,
    PricedCost,
    RunRequested,
    TaskCompleted,
    TaskRequested,
    TokenUsage,
    ToolCompleted,
    ToolRequested,
    WorkError,
)
from penstock.workflow.definition import Definition

Request = InferenceRequested | ToolRequested | TaskRequested
Completed = InferenceCompleted | ToolCompleted | TaskCompleted

BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)
BEGINNING_MS: Final = 1_767_225_600_000


def a_run(workflow: str = "example", /, **fields: Any) -> RunRequested:
    """A request for a run of `workflow`."""
    return RunRequested(workflow=workflow, **fields)


def a_task(step_id: str, **fields: Any) -> dict[str, Any]:
    """A task step that calls the function of its own name."""
    return {"id": step_id, "task": f"tasks.{step_id}", **fields}


def a_model(step_id: str, **fields: Any) -> dict[str, Any]:
    """A model step on the tier `small`."""
    return {"id": step_id, "model": "small", "prompt": "Say something.", **fields}


def an_embedding(step_id: str, **fields: Any) -> dict[str, Any]:
    """An embed step on the tier `small`."""
    return {"id": step_id, "embed": "small", "input": "water", **fields}


def a_tool(step_id: str, **fields: Any) -> dict[str, Any]:
    """A tool step."""
    return {"id": step_id, "tool": "files.read", **fields}


def a_child_run(step_id: str, **fields: Any) -> dict[str, Any]:
    """A step that runs the workflow of its own name."""
    return {"id": step_id, "run": step_id, **fields}


def a_chain(*blocks: dict[str, Any], step_id: str = "main", **fields: Any) -> dict[str, Any]:
    """Blocks in order."""
    return {"id": step_id, "chain": list(blocks), **fields}


def a_definition(do: dict[str, Any] | None = None, **fields: Any) -> Definition:
    """A definition with the root block `do` (one task `work` when left out) and the tier `small` of two routes."""
    body: dict[str, Any] = {
        "name": "example",
        "version": "1",
        "tiers": {"small": [{"pool": "small", "model": "first"}, {"pool": "burst", "model": "second"}]},
        "do": do if do is not None else a_task("work"),
    }
    return Definition.model_validate(body | fields)


@overload
def succeeded(request: InferenceRequested, output: Any = ..., **fields: Any) -> InferenceCompleted: ...
@overload
def succeeded(request: ToolRequested, output: Any = ..., **fields: Any) -> ToolCompleted: ...
@overload
def succeeded(request: TaskRequested, output: Any = ..., **fields: Any) -> TaskCompleted: ...
def succeeded(request: Request, output: Any = None, **fields: Any) -> Completed:
    """The answer to a request that went well."""
    return _completed(request, {"status": "succeeded", "output": output, **fields})


@overload
def failed(request: InferenceRequested, next_move: NextMove = ..., **fields: Any) -> InferenceCompleted: ...
@overload
def failed(request: ToolRequested, next_move: NextMove = ..., **fields: Any) -> ToolCompleted: ...
@overload
def failed(request: TaskRequested, next_move: NextMove = ..., **fields: Any) -> TaskCompleted: ...
def failed(request: Request, next_move: NextMove = NextMove.GIVE_UP, **fields: Any) -> Completed:
    """The answer to a request that failed; `code`, `message` and `retry_after_ms` are the error's."""
    error = WorkError(
        code=fields.pop("code", "broken"),
        message=fields.pop("message", "it broke"),
        next=next_move,
        retry_after_ms=fields.pop("retry_after_ms", None),
    )
    return _completed(request, {"status": "failed", "error": error, **fields})


def tokens(count_input: int = 10, count_output: int = 5, cost: str = "0.001", currency: str = "USD") -> dict[str, Any]:
    """The fields of a model's answer that say what it used."""
    return {
        "usage": TokenUsage(input=count_input, output=count_output),
        "cost": PricedCost(amount=Decimal(cost), currency=currency, price_version="test"),
    }


def a_report(engine: str = "engine-1", *, at_ms: int = BEGINNING_MS, **fields: Any) -> CapacityReported:
    """What an engine of the pool `small` with the model `first` reports: up, idle, room for four, 100 tokens/s at best.

    `state` is its health's; valid for 30 s.
    """
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    own: dict[str, Any] = {
        "engine": engine,
        "engine_session": UUID(int=1),
        "sequence": 1,
        "pool": "small",
        "models": ["first"],
        "health": {"state": fields.pop("state", "up")},
        "requests_in_flight": 0,
        "requests_best": 4,
        "tokens_in_flight": 0,
        "requests_waiting": 0,
        "tokens_waiting": 0,
        "tokens_per_second": 0.0,
        "tokens_per_second_best": 100.0,
        "reported_at": at,
        "expires_at": at + timedelta(seconds=30),
    }
    return CapacityReported.model_validate(own | fields)


def _completed(request: Request, fields: dict[str, Any]) -> Completed:
    attributed = {
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
        "executor": "test",
        "started_at": BEGINNING,
        "finished_at": BEGINNING,
    }
    match request:
        case InferenceRequested():
            model = {"pool": request.pool, "model": request.model, "engine": "test", "simulated": True}
            return InferenceCompleted(**{**attributed, **model, **fields})
        case ToolRequested():
            return ToolCompleted(**{**attributed, "tool": request.tool, **fields})
        case TaskRequested():
            return TaskCompleted(**{**attributed, "task": request.task, **fields})

"""Owns the bodies of work: whose it is, what is asked of an executor, how it ended, what it used."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from penstock.contracts.body import Count, DecimalString, Message, either
from penstock.contracts.parts import Lane, Money, NextMove


class Attributed(Message):
    """Whose work it is: goes unchanged from request to outcome to usage."""

    request_id: UUID
    tenant: str
    run_key: UUID
    run_id: str
    home: int
    workflow: str
    version: str
    step: str
    attempt: int
    labels: dict[str, str] = Field(default_factory=dict)


class WorkRequested(Attributed):
    """What all requests for work share. Past `deadline` nobody awaits the answer."""

    deadline: datetime
    priority: Lane = Lane.STANDARD


class WorkCancelled(Message):
    """Nobody awaits this request's answer any more: its place in an engine may be given to another at once.

    Its executor stops it and answers it as it ended (`cancelled`), so that what it had used is accounted for; one that
    has not begun is not begun. Who missed it, computes in vain: nothing else changes.
    """

    request_id: UUID
    tenant: str
    run_key: UUID
    run_id: str
    step: str
    attempt: int
    reason: Annotated[str, StringConstraints(max_length=256)] = ""
    at: datetime


class ToolRequested(WorkRequested):
    """A tool call: `tool` is `server.tool`, and `grants` all that the executor may call for this step."""

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    grants: list[str]
    idempotent: bool = False


class TaskRequested(WorkRequested):
    """A call of a Python function of the user's."""

    queue: str
    task: str
    input: Any = None


class WorkError(Message):
    """A failed attempt: a stable `code` for machines, a message for people, and what to do next."""

    code: str
    message: str
    next: NextMove
    retry_after_ms: Count | None = None


class TokenUsage(Message):
    """Tokens in mutually exclusive buckets: their sum is what the engine processed."""

    input: Count = 0
    cached_input: Count = 0
    output: Count = 0
    reasoning: Count = 0


class Timing(Message):
    """Where one request's time went, in milliseconds."""

    queue_ms: Annotated[float, Field(ge=0)] = 0.0
    first_token_ms: Annotated[float, Field(ge=0)] | None = None
    total_ms: Annotated[float, Field(ge=0)] = 0.0


class PricedCost(Money):
    """Money with the version of the price list that it was computed from."""

    price_version: str


class WorkCompleted(Attributed):
    """What all outcomes share: `output` where the attempt succeeded, `error` where it did not."""

    model_config = either("succeeded", {})

    status: Literal["succeeded", "failed"]
    output: Any = None
    error: WorkError | None = None
    executor: str
    started_at: datetime
    finished_at: datetime

    @model_validator(mode="after")
    def _output_or_error(self) -> Self:
        if (self.status == "succeeded") != (self.error is None):
            raise ValueError("an attempt that succeeded has no error, any other has one")
        return self


class ToolCompleted(WorkCompleted):
    """A tool's answer."""

    tool: str


class TaskCompleted(WorkCompleted):
    """A task's return value."""

    task: str


class UsageRecorded(Attributed):
    """What one attempt used. Exactly one per request that reached an executor; counted once by `request_id`."""

    kind: Literal["inference", "tool", "task"]
    status: Literal["succeeded", "failed"]
    subject: str
    """The model, tool or task."""
    pool: str | None = None
    lane: Lane | None = None
    engine: str | None = None
    simulated: bool = False
    tokens: TokenUsage = TokenUsage()
    timing: Timing = Timing()
    gpu_seconds: DecimalString | None = None
    """Its share of its engine's accelerators: seconds times accelerators, to the nanosecond. Left out where the engine
    is paid by the token, or was never reached."""
    gpu_type: str | None = None
    """The price list's name of the hardware."""
    energy_joules: DecimalString | None = None
    """Where it can be read: its share, as of the time."""
    engine_session: UUID | None = None
    """Which life of the engine it was: what `penstock.engine.metered.v1` closes the bill of."""
    adapter: str | None = None
    cost: PricedCost
    recorded_at: datetime

"""Owns the bodies of all messages: what each topic's value holds, and how strictly it is read.

Writers are strict (construct the model), readers tolerant (unknown fields are ignored). Within a major version
changes are additive. Times are RFC 3339 UTC; money is a decimal string with its currency; durations are `_ms`.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from penstock.contracts.aliases import Canary as Canary
from penstock.contracts.aliases import WorkflowAliased as WorkflowAliased
from penstock.contracts.body import Count, Currency, DecimalString, Labels, RunId, Tenant
from penstock.contracts.body import Message as Message  # every body is one: readers find it here
from penstock.contracts.children import ParentStep
from penstock.contracts.ids import DEFAULT_TENANT
from penstock.contracts.parts import Budget as Budget
from penstock.contracts.parts import Failure as Failure
from penstock.contracts.parts import Lane as Lane
from penstock.contracts.parts import Money as Money
from penstock.contracts.parts import NextMove as NextMove
from penstock.contracts.parts import RunUsage as RunUsage


def _either(success: str, then: dict[str, Any]) -> ConfigDict:
    """The schema's form of: an output where `status` is `success`, an error where it is not."""
    return ConfigDict(
        json_schema_extra={
            "if": {"properties": {"status": {"const": success}}},
            "then": {**then, "not": {"required": ["error"]}},
            "else": {"required": ["error"], "not": {"required": ["output"]}},
        }
    )


class RunRequested(Message):
    """Asks for a run. Everything but `workflow` may be left out."""

    workflow: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """`name` for its latest version, or `name@version`."""
    input: Any = Field(default_factory=dict)
    """What the workflow's input schema asks for."""
    run_id: RunId | None = None
    """The caller's own, unique within the tenant: a request published twice runs once."""
    tenant: Tenant | None = None
    """Else the header `ce_tenant`, else `default`."""
    labels: Labels = Field(default_factory=dict)
    """For attribution: they come back with the result and with every cost."""
    priority: Lane = Lane.STANDARD
    deadline: AwareDatetime | None = None
    """Past it the run fails; with its time zone."""
    budget: Budget | None = None
    parent: ParentStep | None = None
    """Set by the orchestrator alone: the step that asked for this run."""

    @field_validator("labels", "priority", mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any, field: ValidationInfo) -> Any:
        # Serializers of other languages write null for what was not set.
        if value is None:
            return cls.model_fields[str(field.field_name)].get_default(call_default_factory=True)
        return value


class SignalKind(StrEnum):
    """What can be said to a run."""

    CANCEL = "cancel"
    REDRIVE = "redrive"
    CHILD_FINISHED = "child_finished"
    """Said by the orchestrator alone, by a child run to the one that asked for it."""


class RunFinished(Message):
    """A run's end: `output` where it completed, `error` where it did not."""

    model_config = _either("completed", {"required": ["output"]})

    run_id: str
    workflow: str
    version: str
    """The version that ran; where none was found, the one that was asked for or nothing."""
    tenant: str
    labels: dict[str, str] = Field(default_factory=dict)
    status: Literal["completed", "failed", "cancelled"]
    output: Any = None
    """Always there, null included, where `status` is `completed`."""
    error: Failure | None = None
    """Always there where `status` is not `completed`."""
    started_at: datetime
    finished_at: datetime
    usage: RunUsage = RunUsage()

    @model_validator(mode="after")
    def _output_or_error(self) -> Self:
        if (self.status == "completed") != (self.error is None):
            raise ValueError("a completed run has no error, any other has one")
        return self

    @model_serializer(mode="wrap")
    def _null_is_an_output(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        if self.status == "completed":
            body.setdefault("output", None)
        else:
            body.pop("output", None)
        return body


class RunSignalled(Message):
    """Says something to a run that has been requested."""

    run_id: RunId
    tenant: Tenant = DEFAULT_TENANT
    kind: SignalKind
    reason: Annotated[str, StringConstraints(max_length=1024)] = ""
    workflow: str | None = None
    """What the run was to be a run of: a cancel that names it holds even where it overtakes the run's request."""
    parent: ParentStep | None = None
    """With `child_finished`: the step that is answered."""
    finished: RunFinished | None = None
    """With `child_finished`: how the child run ended."""

    @model_validator(mode="after")
    def _a_childs_end_is_whole(self) -> Self:
        whole = self.parent is not None and self.finished is not None
        if whole != (self.kind is SignalKind.CHILD_FINISHED) or (self.parent is None) != (self.finished is None):
            raise ValueError("`parent` and `finished` come with child_finished, and with nothing else")
        return self


class StepPhase(StrEnum):
    """Where a step is."""

    WAITING = "waiting"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepChange(Message):
    """One change of one step, as the read side sees it. `preview` is the output where that is small."""

    step: str
    kind: str
    phase: StepPhase
    attempt: int
    request_id: UUID | None = None
    route: str | None = None
    route_reason: str | None = None
    """Why this route, where it is not simply the tier's first."""
    at: datetime
    preview: Any = None
    error: Failure | None = None


class RunStart(Message):
    """What the read side learns about a run once, when it starts."""

    input_preview: Any = None
    priority: Lane = Lane.STANDARD
    deadline: datetime | None = None
    budget: Budget | None = None
    """What holds: the run's own, as far as its workflow allows it."""
    started_at: datetime
    parent: ParentStep | None = None
    """The step that asked for this run, where one did."""


class CapNeared(Message):
    """A run has used 80 % of one of its caps; said once for each cap."""

    cap: Literal["model_calls", "tokens", "cost"]
    block: str | None = None
    """The path of the block whose cap it is; left out, the cap is of the run's budget."""
    used: DecimalString
    limit: DecimalString
    currency: Currency | None = None
    at: datetime


class RunProgressed(Message):
    """What one batch of decisions changed in one run; `sequence` grows by one with each record of the run."""

    run_key: UUID
    run_id: str
    tenant: str
    workflow: str
    version: str
    labels: dict[str, str] = Field(default_factory=dict)
    sequence: int
    status: Literal["running", "completed", "failed", "cancelled"]
    start: RunStart | None = None
    changes: list[StepChange] = Field(default_factory=list)
    usage: RunUsage = RunUsage()
    caps_neared: list[CapNeared] = Field(default_factory=list)
    error: Failure | None = None
    undoing: bool = False
    """Whether the run, still `running`, undoes its steps; `error` says why, and will be its end's."""
    at: datetime


class WorkflowPublished(Message):
    """A definition, immutable from here on. `definition` is the body of penstock.workflow.Definition."""

    name: str
    version: str
    definition: dict[str, Any]
    published_at: datetime


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


class ChatMessage(Message):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class InferenceRequested(WorkRequested):
    """A model call. `model` is what the pool's engines call the model."""

    pool: str
    model: str
    messages: list[ChatMessage]
    output_schema: dict[str, Any] | None = None
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.0
    seed: int | None = None


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

    model_config = _either("succeeded", {})

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


class InferenceCompleted(WorkCompleted):
    """A model's answer. `output` is the parsed JSON where a schema was asked for, else the text."""

    pool: str
    model: str
    engine: str
    simulated: bool
    finish_reason: str | None = None
    usage: TokenUsage = TokenUsage()
    timing: Timing = Timing()
    cost: PricedCost | None = None


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
    cost: PricedCost
    recorded_at: datetime

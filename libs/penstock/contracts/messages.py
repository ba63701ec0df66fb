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
from penstock.contracts.body import Currency, DecimalString, Labels, RunId, Tenant, either
from penstock.contracts.body import Message as Message  # every body is one: readers find it here
from penstock.contracts.children import ParentStep
from penstock.contracts.engines import CapacityReported as CapacityReported
from penstock.contracts.engines import EngineHealth as EngineHealth
from penstock.contracts.engines import EngineMetered as EngineMetered
from penstock.contracts.ids import DEFAULT_TENANT
from penstock.contracts.model_calls import ChatMessage as ChatMessage
from penstock.contracts.model_calls import Image as Image
from penstock.contracts.model_calls import InferenceCompleted as InferenceCompleted
from penstock.contracts.model_calls import InferenceRequested as InferenceRequested
from penstock.contracts.model_calls import InferenceStreamed as InferenceStreamed
from penstock.contracts.model_calls import Sampling as Sampling
from penstock.contracts.model_calls import TokenLogprob as TokenLogprob
from penstock.contracts.model_calls import ToolCall as ToolCall
from penstock.contracts.model_calls import ToolSignature as ToolSignature
from penstock.contracts.parts import Budget as Budget
from penstock.contracts.parts import Failure as Failure
from penstock.contracts.parts import Lane as Lane
from penstock.contracts.parts import Money as Money
from penstock.contracts.parts import NextMove as NextMove
from penstock.contracts.parts import RunUsage as RunUsage
from penstock.contracts.work import Attributed as Attributed
from penstock.contracts.work import PricedCost as PricedCost
from penstock.contracts.work import TaskCompleted as TaskCompleted
from penstock.contracts.work import TaskRequested as TaskRequested
from penstock.contracts.work import Timing as Timing
from penstock.contracts.work import TokenUsage as TokenUsage
from penstock.contracts.work import ToolCompleted as ToolCompleted
from penstock.contracts.work import ToolRequested as ToolRequested
from penstock.contracts.work import UsageRecorded as UsageRecorded
from penstock.contracts.work import WorkCancelled as WorkCancelled
from penstock.contracts.work import WorkCompleted as WorkCompleted
from penstock.contracts.work import WorkError as WorkError
from penstock.contracts.work import WorkRequested as WorkRequested


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

    model_config = either("completed", {"required": ["output"]})

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

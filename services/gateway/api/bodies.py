"""Owns the shapes of what the door answers, which are also its OpenAPI document."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from penstock.contracts.aliases import CANARIES_MAX, AliasedVersion, Canary
from penstock.contracts.body import Labels
from penstock.contracts.messages import Budget, CapNeared, Failure, Lane, RunRequested, RunUsage, TokenUsage

RunStatus = Literal["requested", "running", "completed", "failed", "cancelled"]

REQUEST_EXAMPLE: JsonDict = {
    "workflow": "licence-audit",
    "input": {"documents": ["/usr/share/licenses/mit.txt"]},
    "run_id": "audit-4711",
    "labels": {"team": "legal"},
}


class RunBody(RunRequested):
    """A request as `run.requested.v1` has it; an unknown field is an error here, where its writer still listens."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    parent: Literal[None] = None
    """Only a run's own step has child runs."""


class ReasonBody(BaseModel):
    """Why something is said to a run."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=1024)


class Accepted(BaseModel):
    """The broker has it."""

    run_id: str = Field(examples=["audit-4711"])
    tenant: str
    links: dict[str, str] = Field(examples=[{"run": "/v1/runs/audit-4711", "events": "/v1/runs/audit-4711/events"}])


class RunLine(BaseModel):
    """A run as the list shows it."""

    run_id: str
    tenant: str
    workflow: str
    version: str
    status: RunStatus
    labels: Labels = Field(default_factory=dict)
    started_at: datetime
    finished_at: datetime | None = None
    usage: RunUsage = RunUsage()
    error: Failure | None = None


class Attempt(BaseModel):
    """What one attempt used, out of the ledger."""

    attempt: int
    subject: str
    engine: str | None = None
    simulated: bool = False
    status: str
    tokens: TokenUsage = TokenUsage()
    queue_ms: float = 0.0
    first_token_ms: float | None = None
    total_ms: float = 0.0
    cost: str
    currency: str


class StepLine(BaseModel):
    """A step as its changes tell it."""

    step: str
    kind: str
    phase: str
    attempt: int
    route: str | None = None
    route_reason: str | None = None
    first_at: datetime
    last_at: datetime
    preview: Any = None
    error: Failure | None = None
    child_run_id: str | None = None
    """The run that the step's last attempt asked for."""
    attempts: list[Attempt] = Field(default_factory=list)


class RunDetail(RunLine):
    """A run with its steps. `simulated` says that a model's answers were made up."""

    started_at: datetime | None = None  # type: ignore[assignment]  # a request that has not started has no start
    version: str | None = None  # type: ignore[assignment]  # nor a version
    priority: Lane | None = None
    deadline: datetime | None = None
    budget: Budget | None = None
    caps_neared: list[CapNeared] = Field(default_factory=list)
    input_preview: Any = None
    output: Any = None
    sequence: int = 0
    simulated: bool = False
    undoing: bool = False
    """Whether the run, still `running`, undoes its steps; `error` says why."""
    parent_run_id: str | None = None
    """The run whose step asked for this one."""
    parent_step: str | None = None
    steps: list[StepLine] = Field(default_factory=list)
    steps_truncated: bool = False
    links: dict[str, str] = Field(default_factory=dict)


class RunPage(BaseModel):
    """Runs, newest first; `next` is the cursor of the page after this one."""

    runs: list[RunLine]
    next: str | None = None


class DefinitionLine(BaseModel):
    """One version of a workflow."""

    name: str
    version: str
    published_at: datetime
    newest: bool


class DefinitionPage(BaseModel):
    """All versions."""

    workflows: list[DefinitionLine]


class CanaryBody(Canary):
    """A version with its share."""

    model_config = ConfigDict(extra="forbid")


class AliasBody(BaseModel):
    """What an alias is to mean."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"version": "7", "canaries": [{"version": "8", "percent": 10}]}]},
    )

    version: AliasedVersion
    canaries: list[CanaryBody] = Field(default_factory=list, max_length=CANARIES_MAX)


class AliasLine(BaseModel):
    """An alias, and what it means now."""

    name: str
    alias: str
    version: str
    canaries: list[Canary] = Field(default_factory=list)
    set_at: datetime


class AliasPage(BaseModel):
    """All aliases."""

    aliases: list[AliasLine]


class DefinitionDetail(DefinitionLine):
    """One version with its definition."""

    definition: dict[str, Any]


class PredictedWork(BaseModel):
    """What is behind will take, if its requests are like those of the last day: `measured` is how many there were."""

    gpu_seconds: str
    cost: str
    currency: str
    simulated: bool
    measured: int


class LagLine(BaseModel):
    """How far a group is behind on a topic: in records, and in seconds where the oldest unread record is known."""

    group: str
    topic: str
    records: int
    seconds: float | None = None
    partitions: dict[int, int]
    predicted: PredictedWork | None = None
    """Of model calls; left out where nothing was measured."""


class Lag(BaseModel):
    """All groups' lag, at most a few seconds old."""

    as_of: datetime
    lags: list[LagLine]

"""Owns the shapes of what the door answers about money and engine time."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Amount = str
"""A decimal number; never a float, so that sums stay exact."""


class Waste(BaseModel):
    """What was in vain, as far as runs have ended: attempts that failed or were replaced, of steps that were cancelled,
    and everything else of runs that did not complete."""

    retries: Amount = "0"
    abandoned: Amount = "0"
    failed_runs: Amount = "0"
    total: Amount = "0"


class RunsOfLine(BaseModel):
    """The runs that ended in the period: what a finished task costs, and how many model calls a run makes."""

    completed: int
    failed: int
    """Or cancelled."""
    cost_per_completed: Amount | None = None
    """The cost of completed runs, with what was in vain in them, by their number; left out where none completed."""
    calls_p50: int
    calls_p95: int
    calls_max: int


class CostLine(BaseModel):
    """Sums under one combination of what was asked for; simulated work and currencies are never mixed."""

    model_config = ConfigDict(extra="allow")

    requests: int
    failed: int | None = None
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    busy_seconds: float | None = None
    gpu_seconds: Amount | None = None
    simulated: bool | None = None
    cost: Amount = Field(examples=["0.001234"])
    currency: str = Field(examples=["USD"])
    wasted: Waste | None = None
    runs: RunsOfLine | None = None
    """Where all that is asked for belongs to a whole run."""


class EngineTimeLine(BaseModel):
    """What the time of a pool's accelerators came to: total = idle + attributed + lost + pending, exactly."""

    pool: str
    gpu_type: str
    simulated: bool
    currency: str
    sessions: int
    gpu_hours: Amount
    busy_gpu_hours: Amount
    total: Amount
    idle: Amount
    attributed: Amount
    lost: Amount
    pending: str
    """What calls that are in the engines have cost so far; negative where it was more when the period began."""
    energy_joules: Amount | None = None


class Costs(BaseModel):
    """A cost report. The four token buckets exclude each other. `next` is the cursor of the page after this one."""

    by: list[str]
    since: datetime
    until: datetime
    lines: list[CostLine]
    engines: list[EngineTimeLine] = Field(default_factory=list)
    """The engines' time in the period, for all tenants: idle time is nobody's."""
    next: str | None = None


class SessionAccount(BaseModel):
    """One life of an engine."""

    engine_session: str
    engine: str
    state: Literal["closed", "open", "lost", "unmetered"]
    since: datetime
    until: datetime
    gpu_hours: Amount
    price_per_hour: Amount
    attributed: Amount
    idle: Amount
    lost: Amount
    down: Amount
    pending: Amount
    difference: str
    missing_stretches: int = 0


class PoolReconciled(BaseModel):
    """What accelerators cost, and where it went: bill = attributed + idle + lost + down + pending - difference."""

    pool: str
    gpu_type: str
    simulated: bool
    currency: str
    sessions: int
    gpu_hours: Amount
    bill: Amount
    """Accelerator hours times price, with the hours between two lives of an engine."""
    attributed: Amount
    idle: Amount
    lost: Amount
    down: Amount
    pending: Amount
    difference: str
    """What usage records have too much for the time; negative: usage was lost. 0 where all is well."""
    missing_stretches: int = 0
    lives: list[SessionAccount]


class Reconciled(BaseModel):
    """The ledger beside the engines' time: all lives of engines that touch the period, whole."""

    since: datetime
    until: datetime
    pools: list[PoolReconciled]

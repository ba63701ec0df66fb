"""Owns what a run is: its row, its step rows, and what one decision says about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, NotRequired, TypedDict
from uuid import UUID

from penstock.contracts.children import ParentStep
from penstock.contracts.messages import (
    Budget,
    CapNeared,
    Failure,
    InferenceRequested,
    Lane,
    Money,
    RunFinished,
    RunStart,
    RunUsage,
    StepPhase,
    TaskRequested,
    ToolRequested,
    WorkCancelled,
)
from services.orchestrator.core.children import ChildAbandoned, ChildRequested

if TYPE_CHECKING:
    from services.orchestrator.core.breakers import RouteEvent
    from services.orchestrator.core.frames import Live

StepKind = Literal["model", "tool", "task", "run", "undo", "route", "map", "check", "refine", "agent", "vote", "sleep"]
RunStatus = Literal["running", "completed", "failed", "cancelled"]
Request = InferenceRequested | ToolRequested | TaskRequested

NOTHING_SPENT: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Model calls, tokens and money: reserved, spent or needed."""

    model_calls: int = 0
    tokens: int = 0
    cost: Decimal = NOTHING_SPENT

    # Normalised: a sum keeps the zeros of what was taken away again, and 0.039000 would be 0.039 after a restart.
    def __add__(self, other: "Amounts") -> "Amounts":
        cost = (self.cost + other.cost).normalize()
        return Amounts(self.model_calls + other.model_calls, self.tokens + other.tokens, cost)

    def __sub__(self, other: "Amounts") -> "Amounts":
        cost = (self.cost - other.cost).normalize()
        return Amounts(self.model_calls - other.model_calls, self.tokens - other.tokens, cost)


NOTHING: Final = Amounts()


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An attempt that is not awaited any more, and may have been paid for all the same."""

    attempt: int
    """0: of before attempts were kept apart; no answer can be one to it."""
    most: Amounts
    """What it used at most; nothing where no budget or cap had to know."""
    asked_at_ms: int
    burst: bool = False
    """Whether it counts for what the tenant may spend on bursts that day."""


@dataclass(frozen=True, slots=True)
class Undo:
    """How a step is taken back: pinned in its row when it completes, or when it is cancelled while it waits."""

    order: int = 0
    """Its place among the completions of the run's steps that have an undo; 0: it is not known to have completed."""
    given: Any = None
    """What the undo is asked with."""
    fault: str | None = None
    """Why there is nothing to ask with."""
    scope: dict[str, Any] | None = None
    """Of a step that was cancelled while it waited: what the undo sees, should the answer be a success."""
    until_ms: int | None = None
    """And how long that answer is waited for."""


@dataclass(slots=True)
class Step:
    """One step row: a leaf, or the pinned decision of a route (output: the case) a map (output: the item count), a
    gate (output: true) or a vote (its output).
    """

    path: str
    kind: StepKind
    phase: StepPhase
    attempt: int = 0
    """The last attempt that was asked for; counts on over routes and redrives. 0: none was."""
    tries: int = 0
    """Attempts since the step began or was redriven; `retry.attempts` bounds it."""
    repairs: int = 0
    """Attempts on the current route that were asked for because the output before was invalid."""
    route: int = 0
    """Index into the tier's routes."""
    route_reason: str | None = None
    """Why the attempt went there, where that is not simply the first route."""
    request_id: UUID | None = None
    """Of the last attempt; it is awaited while the phase is WAITING."""
    due_at_ms: int | None = None
    """While WAITING the attempt's timeout or a sleep's end, while RETRYING the time of the next attempt."""
    dispatched_at_ms: int | None = None
    """Of the last attempt; of a sleep, when it began."""
    give_up_at_ms: int | None = None
    """When the time for all attempts and waits is over, where the step limits it."""
    output: Any = None
    error: Failure | None = None
    """Why it failed; while RETRYING or WAITING again, why the attempt before failed."""
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = NOTHING_SPENT
    reserved: Amounts | None = None
    """While WAITING, what the attempt uses at most; where a budget or cap has to know."""
    unanswered: tuple[Unanswered, ...] = ()
    """The attempts that are not awaited any more and whose answer has not come."""
    undo: Undo | None = None
    """How it is taken back, where it has an undo and has, or may have, taken effect."""


_NO_USAGE: Final = RunUsage()


@dataclass(slots=True)
class Usage:
    """What a run has spent so far, over all attempts that answered."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = NOTHING_SPENT
    currency: str = "USD"

    def to_message(self) -> RunUsage:
        """The totals as the messages carry them."""
        if not self.model_calls:
            return _NO_USAGE
        return RunUsage.trusted(
            {
                "model_calls": self.model_calls,
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
                "cost": Money.trusted({"amount": self.cost, "currency": self.currency}),
            }
        )


@dataclass(slots=True)
class Run:
    """One run. Every field is stored but `live`, which `restore` derives from `steps`."""

    key: UUID
    tenant: str
    run_id: str
    workflow: str
    version: str
    home: int
    status: RunStatus
    input: Any
    labels: dict[str, str]
    priority: Lane
    budget: Budget | None
    deadline_at_ms: int
    traceparent: str | None
    started_at_ms: int
    parent: ParentStep | None = None
    """The step that asked for it, where one did."""
    finished_at_ms: int | None = None
    usage: Usage = field(default_factory=Usage)
    steps: dict[str, Step] = field(default_factory=dict)
    output: Any = None
    error: Failure | None = None
    sequence: int = 0
    """How many progress records were written; the shell counts."""
    undoing: Literal["failed", "cancelled"] | None = None
    """What the running run will be when all is undone; its error is set already."""
    redrives: int = 0
    """How often the run was redriven, so that each of its ends has an id of its own."""
    live: "Live | None" = field(default=None, compare=False, repr=False)


class Change(TypedDict):
    """A StepChange as a progress record holds it: without what is not set. There are two to a step, so no message is
    built of them.
    """

    step: str
    kind: StepKind
    phase: StepPhase
    attempt: int
    at: datetime
    request_id: NotRequired[UUID]
    route: NotRequired[str]
    route_reason: NotRequired[str]
    preview: NotRequired[Any]
    error: NotRequired[Failure]


@dataclass(slots=True)
class Decision:
    """What one event led to. `alarm_at_ms` is what the run's one alarm must be from now on; None: no alarm."""

    run: Run
    run_changed: bool = False
    """Whether the run's own row must be written (status, output, error, finish, redrives, deadline; not usage, which is
    the sum over its steps)."""
    steps: Sequence[Step] = ()
    requests: list[Request] = field(default_factory=list)
    children: list[ChildRequested] = field(default_factory=list)
    abandoned: list[ChildAbandoned] = field(default_factory=list)
    cancellations: list[WorkCancelled] = field(default_factory=list)
    """Requests to executors whose answers change nothing any more, so that nobody works on them in vain."""
    alarm_at_ms: int | None = None
    changes: list[Change] = field(default_factory=list)
    caps_neared: tuple[CapNeared, ...] = ()
    charges: tuple[tuple[int, Amounts], ...] = ()
    """(day, amounts) taken of the tenant's budget, where the facts knew of one."""
    burst_charges: tuple[tuple[int, Amounts], ...] = ()
    """The same, taken of what the tenant may spend on bursts."""
    route_events: "tuple[RouteEvent, ...]" = ()
    """What happened to calls on routes, in order; where the facts knew of routes."""
    start: RunStart | None = None
    finished: RunFinished | None = None

    @property
    def empty(self) -> bool:
        """Whether the event changed nothing, as a result that nobody awaits."""
        return not (self.run_changed or self.steps or self.requests or self.children or self.finished)

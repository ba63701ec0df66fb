"""Owns the shape of a workflow's tests: cases with scripted answers, signals and what is expected."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from penstock.contracts.body import Count, Currency, Labels
from penstock.contracts.messages import Budget, Lane, NextMove
from services.rehearsal.bounds import CountBound, DurationBound
from services.rehearsal.circumstances import Circumstances
from services.rehearsal.durations import DurationMs
from services.rehearsal.patterns import compiled
from services.rehearsal.written import Written as Written  # what every part of a script is

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _pattern(value: str) -> str:
    compiled(value)
    return value


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_pattern)]


class Failing(Written):
    """How an attempt fails: a code, a message, and the next move that its executor would ask for."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=256)] = "broken"
    message: str = "it broke, as the script says"
    next: NextMove = NextMove.GIVE_UP
    retry_after: DurationMs | None = None


class Answer(Written):
    """What an executor answers to one attempt: `output`, `fails`, or `never` anything at all.

    `output` may hold templates over `step`, `attempt`, `index` (the last one in the path) and what was asked for:
    `prompt` and `system` of a model, `inputs` of an embedding, `arguments` of a tool, `input` of a task.
    """

    output: Any = None
    fails: Failing | None = None
    never: Literal[True] | None = None
    after: DurationMs = 0
    """How long it takes, in virtual time."""
    input_tokens: Count | None = None
    """Of a model; four characters a token where the script does not say."""
    output_tokens: Count | None = None
    cost: Annotated[Decimal, Field(ge=0)] | None = None
    """Of a model; its route's price for the tokens where the script does not say."""
    currency: Currency = "USD"

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if len(self.model_fields_set & {"output", "fails", "never"}) != 1:
            raise ValueError("an answer has exactly one of `output`, `fails` and `never`")
        return self


class InTurn(Written):
    """One answer for each request in the order in which they are asked, whatever their paths."""

    in_turn: Annotated[list[Answer], Field(min_length=1, max_length=10_000)]


def _form(value: Any) -> str:
    if isinstance(value, list):
        return "attempts"
    return "in_turn" if (isinstance(value, Mapping) and "in_turn" in value) or isinstance(value, InTurn) else "answer"


Answers = Annotated[
    Annotated[Answer, Tag("answer")]
    | Annotated[list[Answer], Field(min_length=1, max_length=1_000), Tag("attempts")]
    | Annotated[InTurn, Tag("in_turn")],
    Discriminator(_form),
]
"""One answer to everything; a list with one for each attempt of a step, the last for all later ones; or `in_turn`."""


class Signal(Written):
    """What somebody says to the run at a time."""

    at: DurationMs
    cancel: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """The reason."""
    redrive: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.cancel is None) == (self.redrive is None):
            raise ValueError("a signal has exactly one of `cancel` and `redrive`")
        return self


class ExpectedError(Written):
    """What a run fails with; `message` is a part of the message."""

    code: str | None = None
    step: str | None = None
    message: str | None = None


class Expectation(Written):
    """What is to happen. What is left out is not looked at, but for `status`."""

    status: Literal["completed", "failed", "cancelled"] | None = None
    """`failed` where an `error` is expected, else `completed`."""
    output: Any = None
    output_has: Any = None
    """A part of the output: fields that it has among others."""
    error: ExpectedError | None = None
    ran: list[Pattern] = Field(default_factory=list)
    not_ran: list[Pattern] = Field(default_factory=list)
    order: list[Pattern] = Field(default_factory=list)
    """Each is asked for the first time after the one before it."""
    choices: dict[Pattern, Any] = Field(default_factory=dict)
    """What a route or another deciding step pinned: the case."""
    calls: dict[Pattern, CountBound] = Field(default_factory=dict)
    """How many requests there were: of `model`, `tool`, `task` or `all`, or of steps."""
    attempts: dict[Pattern, CountBound] = Field(default_factory=dict)
    """How many attempts each of these steps took."""
    tokens: CountBound | None = None
    cost: CountBound | None = None
    duration: DurationBound | None = None
    """Of virtual time, from the request to the end."""


class Case(Written):
    """One run of the workflow."""

    name: Name
    workflow: str | dict[str, Any] | None = None
    input: Any = Field(default_factory=dict)
    labels: Labels = Field(default_factory=dict)
    tenant: str = "default"
    run_id: str = "rehearsal"
    priority: Lane = Lane.STANDARD
    deadline: DurationMs | None = None
    budget: Budget | None = None
    started_at: AwareDatetime = datetime(2026, 1, 1, tzinfo=UTC)
    answers: dict[Pattern, Answers] = Field(default_factory=dict)
    signals: list[Signal] = Field(default_factory=list)
    circumstances: Circumstances | None = None
    """What engines have room for, and what bursts may cost."""
    expect: Expectation = Expectation()


class Script(Written):
    """A test file. `workflow` is a file beside it, or the definition itself; left out, the file of the same name."""

    workflow: str | dict[str, Any] | None = None
    workflows: dict[str, str] = Field(default_factory=dict)
    """The files of workflows that `run` steps start, by what the steps call them. A run that no answer stands for is
    played, on the same answers."""
    answers: dict[Pattern, Answers] = Field(default_factory=dict)
    """What all cases share; a case's own answers come first."""
    cases: Annotated[list[Case], Field(min_length=1, max_length=1_000)]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [case.name for case in self.cases]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two cases are called `{twice}`")
        return self

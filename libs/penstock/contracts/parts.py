"""Owns the parts that several messages share: lanes, next moves, money, budgets, failures, usage."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from penstock.contracts.body import Count, Currency, DecimalString, Message


class Lane(StrEnum):
    """How urgent a run is; a lane is a topic of its own for model calls."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class NextMove(StrEnum):
    """What to do about a failure: set by the executor that saw it, never read out of a text."""

    RETRY_AFTER = "retry_after"
    RETRY_ELSEWHERE = "retry_elsewhere"
    REPAIR_OUTPUT = "repair_output"
    GIVE_UP = "give_up"


class Money(Message):
    """An amount with its currency (ISO 4217)."""

    amount: Annotated[DecimalString, Field(ge=0)]
    currency: Currency = "USD"


class Budget(Message):
    """What a run may spend at most."""

    cost: Money | None = None
    tokens: Count | None = None
    model_calls: Count | None = None


class Failure(Message):
    """Why a run failed or was cancelled."""

    code: str
    message: str
    step: str | None = None


class RunUsage(Message):
    """What a run has spent so far: finished model calls, their tokens (all buckets) and their cost."""

    model_calls: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    cost: Money = Money(amount=Decimal(0))

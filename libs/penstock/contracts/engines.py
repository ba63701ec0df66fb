"""Owns what engines say about themselves: the bill of their time, and how much room they have."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from penstock.contracts.body import Count, Currency, DecimalString, Message

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EngineMetered(Message):
    """One stretch of an engine's time and what it cost, gapless within a session.

    Exactly: `total` = `idle` + `attributed` + `lost` + (`pending` - the stretch before's `pending`), in decimal
    arithmetic. `attributed` is the sum of the costs of the usage records of requests that ended within the stretch;
    `lost` went to requests that were cut off there and are answered and paid for elsewhere; `pending` has accrued to
    requests that are still in the engine. A session that was closed ends with nothing pending.
    """

    engine: str
    engine_session: UUID
    sequence: Count
    pool: str
    models: list[str]
    simulated: bool = False
    gpu_type: str
    gpus: Annotated[int, Field(ge=1)]
    price_per_hour: DecimalString
    """Of one accelerator."""
    currency: Currency
    price_version: str
    since: datetime
    until: datetime
    seconds: DecimalString
    """From `since` to `until` by a monotonic clock: the stretches of a session add up without gap or overlap."""
    busy_seconds: DecimalString
    """In which at least one request was in the engine."""
    total: DecimalString
    idle: DecimalString
    attributed: DecimalString
    lost: DecimalString = Decimal(0)
    pending: DecimalString
    energy_joules: DecimalString | None = None
    requests: Count
    """That ended within the stretch."""
    closed: bool = False
    """The session's last, told on an orderly end. A session without it ended by a crash, or goes on."""


class EngineHealth(Message):
    """Whether an engine takes work."""

    state: Literal["starting", "up", "draining", "away", "stopped"]
    detail: str = ""


class CapacityReported(Message):
    """What one engine does and how much room it has. Void after `expires_at`: an engine that died says nothing."""

    engine: str
    engine_session: UUID
    sequence: Count
    pool: str
    models: list[str]
    simulated: bool = False
    gpu_type: str | None = None
    gpus: Count = 0
    health: EngineHealth
    requests_in_flight: Count
    requests_best: Count | None = None
    """How many in flight give the most tokens per second, as measured; left out while nobody knows."""
    tokens_in_flight: Count
    """Reserved for the requests in flight: prompts and expected outputs."""
    kv_tokens_max: Count | None = None
    kv_tokens_free: Count | None = None
    requests_waiting: Count
    """Fetched, and not in the engine yet."""
    tokens_waiting: Count
    tokens_per_second: Share
    """Of late, prompt and output."""
    tokens_per_second_best: Share | None = None
    reported_at: datetime
    expires_at: datetime

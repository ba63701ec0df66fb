"""Owns what a usage record comes to: one entry of the ledger, the line of sums that it counts under, its labels."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from services.gateway.read_models import fields
from services.gateway.read_models.fields import Count, Form, Moment, Text

NUMBERED: Final = re.compile(r"\[[^\]]*\]")
HOUR_SECONDS: Final = 3600.0
TOTAL_MS_MAX: Final = fields.INTEGER_MAX / 1000

Line = tuple[datetime, str, str, str, str, str, str, bool, str, str, str, str, str]
"""Hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, accelerator."""
LabelLine = tuple[datetime, str, str, str, str, str, str, bool, str, str, str, str]
"""The first nine of a line, type of accelerator, label, value."""
CURRENCY: Final = 8
SIMULATED: Final = 7
KIND: Final = 4
GPU_TYPE: Final = 12
MODEL_CALL: Final = "inference"


class UsageRow(msgspec.Struct, gc=False):
    """One ledger entry with the hour and attribution that it is summed under."""

    run_key: UUID
    request_id: UUID
    recorded_at: datetime
    cost: Decimal
    tokens: tuple[int, int, int, int]
    busy_us: int
    gpu_ns: int
    failed: bool
    line: Line
    labels: Mapping[str, Any]
    engine_session: str | None
    body: bytes


class _Tokens(msgspec.Struct, frozen=True, gc=False):
    input: Count = 0
    cached_input: Count = 0
    output: Count = 0
    reasoning: Count = 0


class _Timing(msgspec.Struct, frozen=True, gc=False):
    total_ms: Annotated[float, msgspec.Meta(ge=0, le=TOTAL_MS_MAX)] = 0.0


class _Cost(msgspec.Struct, gc=False):
    amount: str
    currency: Text


class _Used(msgspec.Struct, gc=False):
    """What is read of `penstock.usage.recorded.v1`."""

    request_id: str
    run_key: str
    tenant: Text
    workflow: Text
    version: Text
    step: Text
    kind: Text
    subject: Text
    cost: _Cost
    recorded_at: Moment
    status: Any = ""
    labels: dict[str, Any] | None = None
    tokens: _Tokens = _Tokens()
    timing: _Timing = _Timing()
    pool: Text | None = None
    lane: Text | None = None
    engine: Text | None = None
    simulated: Any = False
    gpu_seconds: str | None = None
    gpu_type: Text | None = None
    engine_session: str | None = None


_FORM: Final = Form(_Used)


def usage_row(body: bytes) -> UsageRow:
    """The entry that a record makes. Raises MalformedRecordError."""
    said = _FORM.read(body)
    session, gpu_type, gpu_ns = None, "", 0
    if said.gpu_seconds is not None:
        gpu_ns = fields.nanoseconds("gpu_seconds", said.gpu_seconds)
        gpu_type = said.gpu_type or ""
        if said.engine_session is not None:
            session = _session(said.engine_session)
    step, tokens = said.step, said.tokens
    return UsageRow(
        fields.key("run_key", said.run_key),
        fields.key("request_id", said.request_id),
        said.recorded_at,
        fields.amount("cost.amount", said.cost.amount),
        (tokens.input, tokens.cached_input, tokens.output, tokens.reasoning),
        round(said.timing.total_ms * 1000),
        gpu_ns,
        said.status != "succeeded",
        (
            _hour(fields.seconds("recorded_at", said.recorded_at) // HOUR_SECONDS),
            said.tenant,
            said.workflow,
            said.version,
            said.kind,
            said.subject,
            said.pool or "",
            said.simulated is True,
            said.cost.currency,
            said.lane or "",
            said.engine or "",
            NUMBERED.sub("[]", step) if "[" in step else step,
            gpu_type,
        ),
        said.labels or {},
        session,
        body,
    )


@lru_cache(maxsize=64)
def _hour(number: float) -> datetime:
    """An hour by its number since 1970 UTC: one object for all entries of it, hashed once."""
    return datetime.fromtimestamp(number * HOUR_SECONDS, UTC)


@lru_cache(maxsize=256)
def _session(value: str) -> str:
    """Few engines say it very often."""
    return str(fields.key("engine_session", value))


class Sums:
    """What the entries of one line come to."""

    __slots__ = ("busy_us", "cost", "failed", "gpu_ns", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.failed = self.busy_us = self.gpu_ns = 0
        self.tokens = [0, 0, 0, 0]
        self.cost = fields.NOUGHT

    def add(self, entry: UsageRow) -> None:
        """One more."""
        self.requests += 1
        self.failed += entry.failed
        self.busy_us += entry.busy_us
        self.gpu_ns += entry.gpu_ns
        tokens, more = self.tokens, entry.tokens
        tokens[0] += more[0]
        tokens[1] += more[1]
        tokens[2] += more[2]
        tokens[3] += more[3]
        self.cost += entry.cost

    def columns(self) -> tuple[Any, ...]:
        """In the order of the tables: requests, failed, four token buckets, busy and GPU time, cost."""
        return (self.requests, self.failed, *self.tokens, self.busy_us, self.gpu_ns, format(self.cost, "f"))


def cost_lines(entries: Iterable[UsageRow]) -> dict[Line, Sums]:
    """The sums per hour and attribution."""
    lines: dict[Line, Sums] = {}
    for entry in entries:
        sums = lines.get(entry.line)
        if sums is None:
            sums = lines[entry.line] = Sums()
        sums.add(entry)
    return lines


def label_line(line: Line, label: str, value: str) -> LabelLine:
    """The line of a label's value."""
    return (*line[:9], line[GPU_TYPE], label, value)

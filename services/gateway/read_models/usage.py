"""Owns what a usage record comes to: one entry of the ledger, the line of sums that it counts under, its labels."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from services.gateway.read_models import fields
from services.gateway.read_models.fields import MalformedRecordError

NUMBERED: Final = re.compile(r"\[[^\]]*\]")
NOUGHT: Final = Decimal(0)

Line = tuple[datetime, str, str, str, str, str, str, bool, str, str, str, str, str]
"""Hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, accelerator."""
LabelLine = tuple[datetime, str, str, str, str, str, str, bool, str, str, str, str]
"""The first nine of a line, type of accelerator, label, value."""
CURRENCY: Final = 8
SIMULATED: Final = 7
KIND: Final = 4
GPU_TYPE: Final = 12
MODEL_CALL: Final = "inference"


@dataclass(slots=True)
class UsageRow:
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


def usage_row(document: fields.Document, body: bytes) -> UsageRow:
    """The entry that a record makes. Raises MalformedRecordError."""
    request = fields.key(document, "request_id")
    tokens = fields.mapping(document, "tokens")
    cost = fields.mapping(document, "cost")
    total_ms = fields.mapping(document, "timing").get("total_ms", 0)
    if not isinstance(total_ms, (int, float)) or not 0 <= total_ms <= fields.INTEGER_MAX / 1000:
        raise MalformedRecordError("$.timing.total_ms: expected a number from 0")
    recorded_at = fields.moment(document, "recorded_at")
    step = fields.text(document, "step")
    session, gpu_type, gpu_ns = None, "", 0
    if document.get("gpu_seconds") is not None:
        gpu_ns = fields.nanoseconds(document, "gpu_seconds")
        gpu_type = fields.optional_text(document, "gpu_type")
        if document.get("engine_session") is not None:
            session = _session(fields.text(document, "engine_session"))
    return UsageRow(
        run_key=fields.key(document, "run_key"),
        request_id=request,
        recorded_at=recorded_at,
        cost=fields.amount(cost, "amount"),
        tokens=(
            fields.count(tokens, "input"),
            fields.count(tokens, "cached_input"),
            fields.count(tokens, "output"),
            fields.count(tokens, "reasoning"),
        ),
        busy_us=round(total_ms * 1000),
        gpu_ns=gpu_ns,
        failed=document.get("status") != "succeeded",
        line=(
            recorded_at.replace(minute=0, second=0, microsecond=0),
            fields.text(document, "tenant"),
            fields.text(document, "workflow"),
            fields.text(document, "version"),
            fields.text(document, "kind"),
            fields.text(document, "subject"),
            fields.optional_text(document, "pool"),
            document.get("simulated") is True,
            fields.text(cost, "currency"),
            fields.optional_text(document, "lane"),
            fields.optional_text(document, "engine"),
            NUMBERED.sub("[]", step) if "[" in step else step,
            gpu_type,
        ),
        labels=fields.mapping(document, "labels"),
        engine_session=session,
        body=body,
    )


@lru_cache(maxsize=256)
def _session(value: str) -> str:
    """Few engines say it very often."""
    return str(fields.key({"engine_session": value}, "engine_session"))


class Sums:
    """What the entries of one line come to."""

    __slots__ = ("busy_us", "cost", "failed", "gpu_ns", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.failed = self.busy_us = self.gpu_ns = 0
        self.tokens = [0, 0, 0, 0]
        self.cost = NOUGHT

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

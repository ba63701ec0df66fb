"""Owns what a record of an engine's account comes to: one stretch of its time."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from services.gateway.read_models import fields
from services.gateway.read_models.fields import Count, Form, Moment, Text


class StretchRow(msgspec.Struct, gc=False):
    """Time in nanoseconds, money in the currency."""

    engine_session: UUID
    sequence: int
    engine: str
    pool: str
    simulated: bool
    gpu_type: str
    gpus: int
    price_per_hour: Decimal
    currency: str
    since: datetime
    until: datetime
    ns: int
    busy_ns: int
    total: Decimal
    idle: Decimal
    attributed: Decimal
    lost: Decimal
    pending: Decimal
    energy_joules: Decimal
    closed: bool
    body: bytes


class _Metered(msgspec.Struct, gc=False):
    """What is read of `penstock.engine.metered.v1`."""

    engine_session: str
    engine: Text
    pool: Text
    gpu_type: Text
    price_per_hour: str
    currency: Text
    since: Moment
    until: Moment
    seconds: str
    busy_seconds: str
    total: str
    idle: str
    attributed: str
    pending: str
    lost: str = "0"
    energy_joules: str | None = None
    sequence: Count = 0
    gpus: Count = 0
    simulated: Any = False
    closed: Any = False


_FORM: Final = Form(_Metered)


def stretch_row(body: bytes) -> StretchRow:
    """The stretch that a record tells. Raises MalformedRecordError."""
    said = _FORM.read(body)
    return StretchRow(
        engine_session=fields.key("engine_session", said.engine_session),
        sequence=said.sequence,
        engine=said.engine,
        pool=said.pool,
        simulated=said.simulated is True,
        gpu_type=said.gpu_type,
        gpus=said.gpus,
        price_per_hour=fields.amount("price_per_hour", said.price_per_hour),
        currency=said.currency,
        since=said.since,
        until=said.until,
        ns=fields.nanoseconds("seconds", said.seconds),
        busy_ns=fields.nanoseconds("busy_seconds", said.busy_seconds),
        total=fields.amount("total", said.total),
        idle=fields.amount("idle", said.idle),
        attributed=fields.amount("attributed", said.attributed),
        lost=fields.amount("lost", said.lost),
        pending=fields.amount("pending", said.pending),
        energy_joules=fields.amount("energy_joules", said.energy_joules or "0"),
        closed=said.closed is True,
        body=body,
    )

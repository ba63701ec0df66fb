"""Owns what a record of an engine's account comes to: one stretch of its time."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.gateway.read_models import fields


@dataclass(slots=True)
class StretchRow:
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


def stretch_row(document: fields.Document, body: bytes) -> StretchRow:
    """The stretch that a record tells. Raises MalformedRecordError."""
    return StretchRow(
        engine_session=fields.key(document, "engine_session"),
        sequence=fields.count(document, "sequence"),
        engine=fields.text(document, "engine"),
        pool=fields.text(document, "pool"),
        simulated=document.get("simulated") is True,
        gpu_type=fields.text(document, "gpu_type"),
        gpus=fields.count(document, "gpus"),
        price_per_hour=fields.amount(document, "price_per_hour"),
        currency=fields.text(document, "currency"),
        since=fields.moment(document, "since"),
        until=fields.moment(document, "until"),
        ns=fields.nanoseconds(document, "seconds"),
        busy_ns=fields.nanoseconds(document, "busy_seconds"),
        total=fields.amount(document, "total"),
        idle=fields.amount(document, "idle"),
        attributed=fields.amount(document, "attributed"),
        lost=fields.amount(document, "lost") if "lost" in document else Decimal(0),
        pending=fields.amount(document, "pending"),
        energy_joules=fields.amount(document, "energy_joules") if document.get("energy_joules") else Decimal(0),
        closed=document.get("closed") is True,
        body=body,
    )

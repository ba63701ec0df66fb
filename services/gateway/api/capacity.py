"""Owns the HTTP of engines' room."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel

from penstock.contracts.messages import CapacityReported
from penstock.runtime.clock import now_ms
from services.gateway.api.runs import gateway_of
from services.gateway.api.strict import StrictRoute

router = APIRouter(tags=["reports"], route_class=StrictRoute)


class EngineLine(BaseModel):
    """What an engine last said of itself. Left out is what it does not know."""

    engine: str
    pool: str
    models: list[str]
    simulated: bool
    gpu_type: str | None = None
    gpus: int
    health: str
    detail: str
    requests_in_flight: int
    requests_best: int | None = None
    requests_waiting: int
    tokens_in_flight: int
    tokens_waiting: int
    kv_tokens_max: int | None = None
    kv_tokens_free: int | None = None
    tokens_per_second: float
    tokens_per_second_best: float | None = None
    reported_at: datetime
    expires_at: datetime


class Capacity(BaseModel):
    """All engines whose last report is valid, by pool and name."""

    as_of: datetime
    engines: list[EngineLine]


@router.get("/v1/capacity", response_model=Capacity, response_model_exclude_none=True)
async def read_capacity(request: Request) -> Capacity:
    """Read what room engines have, as they report it; one that says nothing for half a minute is gone."""
    reports = gateway_of(request).engines.reports()
    return Capacity(as_of=datetime.fromtimestamp(now_ms() / 1000, UTC), engines=[_line(each) for each in reports])


def _line(report: CapacityReported) -> EngineLine:
    said = report.model_dump(exclude={"health", "engine_session", "sequence"})
    return EngineLine(**said, health=report.health.state, detail=report.health.detail)

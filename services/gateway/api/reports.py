"""Owns the HTTP of reports: lag with what it will cost, and what the gateway's documents say of it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from aiokafka.errors import KafkaError
from fastapi import APIRouter, Request

from penstock.contracts.topics import INFERENCE_REQUESTED
from penstock.runtime.postgres import AWAY
from services.gateway.api.bodies import Lag, LagLine, PredictedWork
from services.gateway.api.problems import ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of
from services.gateway.api.strict import StrictRoute
from services.gateway.lag import Lag as GroupLag
from services.gateway.read_models.costs import Pace

PACE_OF: Final = timedelta(days=1)

router = APIRouter(tags=["reports"], route_class=StrictRoute, responses={422: {"model": ProblemBody}})


@router.get("/v1/lag", response_model=Lag)
async def read_lag(request: Request) -> Lag:
    """Read how far each consumer group is behind on each topic."""
    try:
        at_ms, lags = await gateway_of(request).lag.read()
    except (KafkaError, OSError, TimeoutError) as error:
        raise ProblemError(503, "unavailable", "The broker does not answer", repr(error)) from error
    paces = await _paces(request, at_ms)
    return Lag(
        as_of=datetime.fromtimestamp(at_ms / 1000, UTC),
        lags=[
            LagLine(
                group=each.group,
                topic=each.topic,
                records=each.total,
                seconds=each.seconds(at_ms),
                partitions=each.partitions,
                predicted=_predicted(each, paces),
            )
            for each in lags
        ],
    )


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi(request: Request) -> dict[str, Any]:
    """What the gateway reads from Kafka."""
    return gateway_of(request).asyncapi()


async def _paces(request: Request, at_ms: int) -> dict[str, Pace]:
    """By topic of requests. Without the database, lag is still lag."""
    since = datetime.fromtimestamp(at_ms / 1000, UTC) - PACE_OF
    try:
        paces = await gateway_of(request).ledger.pace(since)
    except (asyncpg.PostgresError, *AWAY):
        return {}
    return {INFERENCE_REQUESTED.named(pool=pool, lane=lane): pace for (pool, lane), pace in paces.items()}


def _predicted(lag: GroupLag, paces: Mapping[str, Pace]) -> PredictedWork | None:
    pace = paces.get(lag.topic)
    if pace is None:
        return None
    return PredictedWork(
        gpu_seconds=format(round(pace.gpu_seconds * lag.total, 3), "f"),
        cost=format(round(pace.cost * lag.total, 6), "f"),
        currency=pace.currency,
        simulated=pace.simulated,
        measured=pace.requests,
    )

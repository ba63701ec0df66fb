"""Owns the HTTP of reports: costs, lag, and what the gateway's documents say of it."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Query, Request

from penstock.runtime.clock import now_ms
from penstock.workflow.faults import nearest
from services.gateway.api.bodies import CostLine, Costs, Lag, LagLine
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of
from services.gateway.api.strict import StrictRoute

COLUMNS = ("tenant", "workflow", "version", "kind", "model", "pool", "day", "hour")
HOURS_DEFAULT = timedelta(days=30)
LINES_MAX = 1_000

router = APIRouter(tags=["reports"], route_class=StrictRoute, responses={422: {"model": ProblemBody}})


@router.get("/v1/costs", response_model=Costs, response_model_exclude_none=True)
async def read_costs(
    request: Request,
    by: Annotated[
        str, Query(description=f"names separated by commas, out of: {', '.join(COLUMNS)}; or run alone")
    ] = "tenant,workflow",
    tenant: str | None = None,
    workflow: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=LINES_MAX)] = 200,
) -> Costs:
    """Read what was used and what it cost: whole hours, by whatever is named; or the newest runs of a tenant."""
    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    _check(names)
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    start = _hour(since or now - HOURS_DEFAULT)
    end = until.astimezone(UTC) if until is not None else now + timedelta(hours=1)
    reader = gateway_of(request).reader
    if "run" in names:
        rows = await reader.costs_by_run(start, end, tenant or "default", workflow, limit)
        lines = [{**row, "run": row.pop("run_id")} for row in rows]
    else:
        rows = await reader.costs(names, start, end, tenant, workflow, limit)
        lines = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return Costs(
        by=names,
        since=start,
        until=end,
        lines=[CostLine(**{**line, "cost": format(line["cost"], "f")}) for line in lines],
    )


@router.get("/v1/lag", response_model=Lag)
async def read_lag(request: Request) -> Lag:
    """Read how far each consumer group is behind on each topic."""
    try:
        at_ms, lags = await gateway_of(request).lag.read()
    except (KafkaError, OSError, TimeoutError) as error:
        raise ProblemError(503, "unavailable", "The broker does not answer", repr(error)) from error
    return Lag(
        as_of=datetime.fromtimestamp(at_ms / 1000, UTC),
        lags=[
            LagLine(
                group=each.group,
                topic=each.topic,
                records=each.total,
                seconds=each.seconds(at_ms),
                partitions=each.partitions,
            )
            for each in lags
        ],
    )


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi(request: Request) -> dict[str, Any]:
    """What the gateway reads from Kafka."""
    return gateway_of(request).asyncapi()


def _check(names: list[str]) -> None:
    for name in names:
        if name not in COLUMNS and name != "run":
            fault = FaultBody(
                path="query.by", message=f"unknown column {name!r}", hint=nearest(name, (*COLUMNS, "run"))
            )
            raise ProblemError(422, "invalid_request", "Unknown column", fault.message, hint=fault.hint, errors=[fault])
    if "run" in names and len(names) > 1:
        fault = FaultBody(path="query.by", message="`run` stands alone: a run has one tenant and one workflow")
        raise ProblemError(422, "invalid_request", "Too many columns", fault.message, errors=[fault])


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

"""Owns the page at `/`: rendered whole by the server, its tables fetched again every few seconds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aiokafka.errors import KafkaError
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from penstock.runtime.clock import now_ms
from services.gateway.api import views
from services.gateway.api.runs import find_run, gateway_of
from services.gateway.api.strict import RunIdOf, TenantOf
from services.gateway.read_models.costs import CostQuestion
from services.gateway.read_models.reader import RunFilter

RUNS_SHOWN: Final = 50
LINES_SHOWN: Final = 50
COSTS_SINCE: Final = timedelta(days=1)
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

router = APIRouter(include_in_schema=False)
_templates: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@router.get("/")
async def overview(request: Request, tenant: TenantOf) -> HTMLResponse:
    """Runs, costs, engines and lag."""
    gateway = gateway_of(request)
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    rows = await gateway.reader.runs(RunFilter(tenant), None, RUNS_SHOWN)
    since, until = now - COSTS_SINCE, now + timedelta(hours=1)
    by = ["tenant", "workflow", "kind", "model"]
    costs = await gateway.ledger.costs(CostQuestion(by, since, until), LINES_SHOWN)
    try:
        lags = sorted((await gateway.lag.read())[1], key=lambda lag: -lag.total)
    except (KafkaError, OSError, TimeoutError):
        lags = None
    return _page(
        "overview.html",
        now=now,
        now_ms=now_ms(),
        tenant=tenant,
        runs=[(line, views.page_link(line.run_id, line.tenant)) for line in map(views.line, rows)],
        costs=costs,
        engines=await gateway.ledger.engine_time(since, until),
        lags=lags,
        rooms=gateway.engines.reports(),
    )


@router.get("/runs/{run_id}")
async def one_run(request: Request, run_id: RunIdOf, tenant: TenantOf) -> HTMLResponse:
    """A run's steps."""
    run = await find_run(gateway_of(request), run_id, tenant)
    return _page(
        "run.html",
        now=datetime.fromtimestamp(now_ms() / 1000, UTC),
        tenant=tenant,
        run=run,
        blob_links=views.blob_links,
    )


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(template).render(**values), headers=HEADERS)

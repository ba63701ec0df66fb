"""Owns the HTTP of money: costs by what is asked for, the ledger closed against engine time, its entries for export."""

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from penstock.runtime.clock import now_ms
from penstock.workflow.faults import nearest
from services.gateway.api.cost_bodies import (
    CostLine,
    Costs,
    EngineTimeLine,
    PoolReconciled,
    Reconciled,
    RunsOfLine,
    SessionAccount,
    Waste,
)
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of
from services.gateway.api.strict import StrictRoute
from services.gateway.read_models.costs import CostQuestion
from services.gateway.read_models.reconcile import Account, PoolAccount, reconciled

COLUMNS: Final = (
    "tenant",
    "workflow",
    "version",
    "kind",
    "model",
    "pool",
    "lane",
    "engine",
    "step",
    "gpu_type",
    "day",
    "hour",
)
LABEL: Final = "label:"
BESIDE_A_LABEL: Final = frozenset(COLUMNS) - {"lane", "engine", "step"}
OF_A_RUN: Final = frozenset({"tenant", "workflow", "version", "day", "hour"})
SINCE_DEFAULT: Final = timedelta(days=30)
LINES_MAX: Final = 1_000

router = APIRouter(tags=["costs"], route_class=StrictRoute, responses={422: {"model": ProblemBody}})


@router.get("/v1/costs", response_model=Costs, response_model_exclude_none=True)
async def read_costs(
    request: Request,
    by: Annotated[
        str,
        Query(description=f"names separated by commas, out of: {', '.join(COLUMNS)}, one label:KEY; or run alone"),
    ] = "tenant,workflow",
    tenant: str | None = None,
    workflow: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Annotated[int, Query(ge=1, le=LINES_MAX)] = 200,
    cursor: str | None = None,
) -> Costs:
    """Read what was used, what it cost and how much of it was in vain: whole hours, by whatever is named.

    By `run`: the newest runs of a tenant.
    """
    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    label = _checked(names)
    start, end, offset = _period(since, until, cursor)
    gateway = gateway_of(request)
    if "run" in names:
        rows = await gateway.reader.costs_by_run(start, end, tenant or "default", workflow, limit)
        lines = [{**row, "run": row.pop("run_id"), "cost": _text(row["cost"])} for row in rows]
        return Costs(by=names, since=start, until=end, lines=[CostLine(**line) for line in lines])
    question = CostQuestion(names, start, end, label, tenant, workflow)
    rows = await gateway.ledger.costs(question, limit + 1, offset)
    runs = await gateway.ledger.runs(question) if OF_A_RUN.issuperset(_of_rows(names)) else []
    engines = [] if tenant or workflow or offset else await gateway.ledger.engine_time(start, end)
    more = len(rows) > limit
    return Costs(
        by=names,
        since=start,
        until=end,
        lines=_lines(rows[:limit], runs, names),
        engines=[EngineTimeLine(**_texts(row)) for row in engines],
        next=_cursor(start, end, offset + limit) if more else None,
    )


@router.get("/v1/costs/reconciled", response_model=Reconciled)
async def read_reconciled(
    request: Request,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Annotated[int, Query(ge=0, le=LINES_MAX, description="lives of engines per pool")] = 100,
) -> Reconciled:
    """Close the ledger against the engines' time: hours times price, beside what became of it."""
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    start, end = since or now - SINCE_DEFAULT, until or now
    pools = reconciled(await gateway_of(request).ledger.lives(start, end), now)
    return Reconciled(since=start, until=end, pools=[_pool(pool, limit) for pool in pools])


@router.get("/v1/costs/entries", response_class=StreamingResponse)
async def read_entries(
    request: Request, since: datetime, until: datetime | None = None, tenant: str | None = None
) -> StreamingResponse:
    """Read the ledger's entries as they came, and the engines' accounts, a JSON object per line: for exports.

    Each line is `{"usage": …}` or `{"engine": …}`; the last one is `{"end": true}`, without which the answer was cut.
    """
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    entries = gateway_of(request).ledger.entries(since, until or now)
    return StreamingResponse(_written(entries, tenant), media_type="application/x-ndjson")


async def _written(entries: AsyncIterator[tuple[str, bytes]], tenant: str | None) -> AsyncIterator[bytes]:
    """Engine time is nobody's, so one tenant's export has none."""
    async for kind, body in entries:
        document = orjson.loads(body)
        if tenant is None or document.get("tenant") == tenant:
            yield orjson.dumps({kind: document}, option=orjson.OPT_APPEND_NEWLINE)
    yield b'{"end":true}\n'


def _lines(
    rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[CostLine]:
    columns = ["label" if name.startswith(LABEL) else name for name in names]
    known = {_key(run, columns): run for run in runs}
    lines = []
    for row in rows:
        given = {name: row[column] for name, column in zip(names, columns, strict=True)}
        sums = {name: value for name, value in row.items() if name in CostLine.model_fields}
        sums |= {name: _text(row[name]) for name in ("cost", "gpu_seconds")}
        run = known.get(_key(row, columns))
        lines.append(CostLine(**given, **sums, wasted=_waste(row), runs=None if run is None else _runs(run)))
    return lines


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[Any, ...]:
    return (*(row[column] for column in columns), row["simulated"], row["currency"])


def _waste(row: Mapping[str, Any]) -> Waste:
    parts = row["wasted_retries"], row["wasted_abandoned"], row["wasted_failed"]
    retries, abandoned, failed, total = (_text(part) for part in (*parts, sum(parts)))
    return Waste(retries=retries, abandoned=abandoned, failed_runs=failed, total=total)


def _runs(run: Mapping[str, Any]) -> RunsOfLine:
    completed = run["runs_completed"]
    return RunsOfLine(
        completed=completed,
        failed=run["runs_failed"],
        cost_per_completed=_text(run["completed_cost"] / completed) if completed else None,
        calls_p50=run["calls"][0],
        calls_p95=run["calls"][1],
        calls_max=run["calls_max"],
    )


def _pool(pool: PoolAccount, limit: int) -> PoolReconciled:
    parts = {name: _text(getattr(pool, name)) for name in ("attributed", "idle", "lost", "down", "pending")}
    return PoolReconciled(
        pool=pool.pool,
        gpu_type=pool.gpu_type,
        simulated=pool.simulated,
        currency=pool.currency,
        sessions=pool.sessions,
        gpu_hours=_text(pool.gpu_hours),
        bill=_text(pool.bill),
        **parts,
        difference=_text(pool.difference),
        missing_stretches=pool.missing,
        lives=[_life(account) for account in pool.accounts[-limit:]] if limit else [],
    )


def _life(account: Account) -> SessionAccount:
    return SessionAccount(
        engine_session=str(account.engine_session),
        engine=account.engine,
        state=account.state,
        since=account.since,
        until=account.until,
        gpu_hours=_text(account.gpu_seconds / 3600),
        price_per_hour=_text(account.price_per_hour),
        attributed=_text(account.attributed),
        idle=_text(account.idle),
        lost=_text(account.lost),
        down=_text(account.down),
        pending=_text(account.pending),
        difference=_text(account.difference),
        missing_stretches=account.missing,
    )


def _text(value: Decimal | int) -> str:
    """A plain number: no exponent, no zeros behind it, twelve decimals at most."""
    rounded = round(Decimal(value), 12)
    return format(rounded.normalize() if rounded else Decimal(0), "f")


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _text(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def _checked(names: Sequence[str]) -> str | None:
    """The label that is asked for. Raises a problem for what no report can be made of."""
    labels = [name.removeprefix(LABEL) for name in names if name.startswith(LABEL)]
    for name in names:
        if name not in COLUMNS and name != "run" and not name.startswith(LABEL):
            message = f"unknown column {name!r}"
            raise _refused(message, nearest(name, (*COLUMNS, "run", f"{LABEL}KEY")))
    if "run" in names and len(names) > 1:
        raise _refused("`run` stands alone: a run has one tenant and one workflow")
    if len(labels) > 1 or labels == [""]:
        raise _refused("one label at a time, as label:KEY")
    beside = sorted({name for name in names if not name.startswith(LABEL)} - BESIDE_A_LABEL)
    if labels and beside:
        raise _refused(f"a label is not kept apart by {', '.join(beside)}")
    return labels[0] if labels else None


def _refused(message: str, hint: str | None = None) -> ProblemError:
    fault = FaultBody(path="query.by", message=message, hint=hint)
    return ProblemError(422, "invalid_request", "Not these columns", message, hint=hint, errors=[fault])


def _of_rows(names: Sequence[str]) -> set[str]:
    return {name for name in names if not name.startswith(LABEL)}


def _period(since: datetime | None, until: datetime | None, cursor: str | None) -> tuple[datetime, datetime, int]:
    """Whole hours, and how many lines were read before: of the cursor where there is one."""
    if cursor is not None:
        try:
            start, end, offset = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            return datetime.fromisoformat(start), datetime.fromisoformat(end), min(int(offset), 10**9)
        except (ValueError, TypeError) as error:
            fault = FaultBody(path="query.cursor", message="the cursor is not one of ours")
            raise ProblemError(422, "invalid_cursor", "Not a cursor", fault.message, errors=[fault]) from error
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    return _hour(since or now - SINCE_DEFAULT), (until or now + timedelta(hours=1)).astimezone(UTC), 0


def _cursor(since: datetime, until: datetime, offset: int) -> str:
    content = orjson.dumps([since.isoformat(), until.isoformat(), offset])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

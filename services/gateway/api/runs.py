"""Owns the HTTP of runs: start, list, read, cancel, redrive."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response, status

from penstock.contracts.blobs import ValueTooLargeError
from penstock.contracts.ids import RUN_ID_PATTERN, run_key
from penstock.contracts.messages import RunRequested, SignalKind
from penstock.runtime.errors import NotAcknowledged, Permanent, Unavailable
from penstock.workflow.faults import nearest
from services.gateway.acceptance import ConflictError, Origin
from services.gateway.api import views
from services.gateway.api.bodies import Accepted, ReasonBody, RunBody, RunDetail, RunPage
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.strict import LargeRoute, RunIdOf, StrictRoute, TenantOf
from services.gateway.gateway import Gateway
from services.gateway.read_models.reader import BadCursorError, Cursor, RunFilter

router = APIRouter(
    prefix="/v1/runs",
    tags=["runs"],
    route_class=StrictRoute,
    responses={code: {"model": ProblemBody} for code in (400, 404, 413, 422, 503)},
)

starting = APIRouter(prefix="/v1/runs", tags=["runs"], route_class=LargeRoute, responses=router.responses)
"""The one route that brings a run's input."""

TERMINAL = frozenset({"completed", "failed", "cancelled"})


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


@starting.post("", status_code=status.HTTP_202_ACCEPTED, response_model=Accepted)
async def start_run(
    body: RunBody,
    request: Request,
    response: Response,
    tenant: TenantOf,
    idempotency_key: Annotated[
        str | None, Header(description="1 to 128 printable ASCII characters; the run id where the body names none")
    ] = None,
    traceparent: Annotated[str | None, Header()] = None,
) -> Accepted:
    """Start a run. Answers when the broker has the request; the same request again starts nothing new."""
    gateway = gateway_of(request)
    origin = Origin(_tenant_of(body, tenant, request), traceparent)
    check_tenant(gateway, origin.tenant)
    key = _key(idempotency_key)
    await _check_input(gateway, body, origin.tenant)
    try:
        given = await _small(gateway, body.input, origin.tenant)
        message = RunRequested.model_validate(body.model_dump(exclude={"input"}) | {"input": given})
        run_id = await gateway.acceptance.run(message, origin, key)
    except ConflictError as error:
        raise _conflict(error) from error
    except NotAcknowledged as error:
        raise not_acknowledged(error) from error
    links = views.links(run_id, origin.tenant)
    response.headers["location"] = links["run"]
    return Accepted(run_id=run_id, tenant=origin.tenant, links=links)


@router.get("", response_model=RunPage)
async def list_runs(
    request: Request,
    tenant: TenantOf,
    workflow: str | None = None,
    status: Literal["running", "completed", "failed", "cancelled"] | None = None,
    label: Annotated[list[str], Query(description="key=value; may be repeated")] = [],  # noqa: B006 - read only
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str | None = None,
) -> RunPage:
    """List a tenant's runs, newest first."""
    try:
        after = None if cursor is None else Cursor.parse(cursor)
    except BadCursorError as error:
        fault = FaultBody(path="query.cursor", message=str(error))
        raise ProblemError(422, "invalid_cursor", "The cursor is not valid", str(error), errors=[fault]) from error
    labels = dict(each.split("=", 1) for each in label if "=" in each)
    which = RunFilter(tenant, workflow, status, labels)
    rows = await gateway_of(request).reader.runs(which, after, limit + 1)
    more = rows[limit - 1] if len(rows) > limit else None
    following = None if more is None else str(Cursor(more["started_at"], more["run_key"]))
    return RunPage(runs=[views.line(row) for row in rows[:limit]], next=following)


@router.get("/{run_id}", response_model=RunDetail)
async def read_run(request: Request, run_id: RunIdOf, tenant: TenantOf) -> RunDetail:
    """Read a run with its steps and what each attempt used."""
    return await find_run(gateway_of(request), run_id, tenant)


@router.post("/{run_id}/cancel", status_code=status.HTTP_202_ACCEPTED, response_model=Accepted)
async def cancel_run(request: Request, run_id: RunIdOf, tenant: TenantOf, body: ReasonBody | None = None) -> Accepted:
    """Cancel a run; one that has ended stays as it is."""
    return await _signal(request, SignalKind.CANCEL, run_id, tenant, body)


@router.post("/{run_id}/redrive", status_code=status.HTTP_202_ACCEPTED, response_model=Accepted)
async def redrive_run(request: Request, run_id: RunIdOf, tenant: TenantOf, body: ReasonBody | None = None) -> Accepted:
    """Resume a failed run at its failed steps, with every result that was paid for."""
    found = await find_run(gateway_of(request), run_id, tenant)
    if found.status in ("requested", "running", "completed"):
        detail = f"The run is {found.status}; only failed and cancelled runs are redriven."
        raise ProblemError(409, "not_redrivable", "The run cannot be redriven", detail)
    return await _signal(request, SignalKind.REDRIVE, run_id, tenant, body)


async def find_run(gateway: Gateway, run_id: str, tenant: str) -> RunDetail:
    """The run, or what is known of a request that has not started. Raises 404."""
    key = run_key(tenant, run_id)
    row = await gateway.reader.run(key)
    if row is not None:
        progress = [document async for document in gateway.reader.all_progress(key)]
        return views.detail(row, progress, await gateway.reader.usage(key))
    accepted = await gateway.reader.accepted(key)
    if accepted is None:
        raise unknown_run(run_id, tenant)
    return views.requested(accepted)


def unknown_run(run_id: str, tenant: str) -> ProblemError:
    """404."""
    detail = f"The tenant {tenant!r} has no run {run_id!r}."
    return ProblemError(404, "unknown_run", "No such run", detail, hint="see GET /v1/runs")


def not_acknowledged(error: NotAcknowledged) -> ProblemError:
    """413 where it never can be, else 503."""
    if error.permanent:
        return ProblemError(413, "too_large", "The broker refuses the record", error.reason)
    return ProblemError(503, "unavailable", "The broker does not answer", error.reason, hint="send it again")


async def _signal(request: Request, kind: SignalKind, run_id: str, tenant: str, body: ReasonBody | None) -> Accepted:
    gateway = gateway_of(request)
    key = run_key(tenant, run_id)
    if await gateway.reader.run(key) is None and await gateway.reader.accepted(key) is None:
        raise unknown_run(run_id, tenant)
    try:
        await gateway.acceptance.signal(kind, run_id, Origin(tenant), "" if body is None else body.reason)
    except NotAcknowledged as error:
        raise not_acknowledged(error) from error
    return Accepted(run_id=run_id, tenant=tenant, links=views.links(run_id, tenant))


def _tenant_of(body: RunBody, tenant: str, request: Request) -> str:
    if body.tenant is None or "tenant" not in request.query_params or body.tenant == tenant:
        return body.tenant or tenant
    detail = f"The body says {body.tenant!r}, the address {tenant!r}."
    raise ProblemError(
        422, "invalid_tenant", "Two tenants", detail, errors=[FaultBody(path="$.tenant", message=detail)]
    )


def check_tenant(gateway: Gateway, tenant: str) -> None:
    """Raises 422 for a tenant that may not start runs."""
    known = gateway.settings.gateway_tenants
    if known and tenant not in known:
        fault = FaultBody(path="$.tenant", message=f"unknown tenant {tenant!r}", hint=nearest(tenant, known))
        raise ProblemError(422, "unknown_tenant", "Unknown tenant", fault.message, hint=fault.hint, errors=[fault])


def _key(header: str | None) -> str | None:
    if header is None:
        return None
    key = header[1:-1] if len(header) > 2 and header[0] == header[-1] == '"' else header
    if RUN_ID_PATTERN.fullmatch(key) is None:
        fault = FaultBody(path="header.idempotency-key", message="expected 1 to 128 printable ASCII characters")
        raise ProblemError(400, "invalid_idempotency_key", "The key is not valid", fault.message, errors=[fault])
    return key


async def _small(gateway: Gateway, given: Any, tenant: str) -> Any:
    """The input as it travels: what is large is in the blob store by now."""
    if not gateway.blobs.there:
        return given
    try:
        return await gateway.blobs.stored(given, tenant, "$.input")
    except ValueTooLargeError as error:
        fault = FaultBody(path=error.path, message=str(error), hint="store it elsewhere, and give the run its address")
        raise ProblemError(413, "value_too_large", "The input is too large", str(error), errors=[fault]) from error
    except Unavailable as error:
        hint = "send it again"
        raise ProblemError(503, "blob_store_away", "The blob store does not answer", str(error), hint=hint) from error


async def _whole(gateway: Gateway, given: Any, tenant: str) -> Any:
    """The input with what was stored before it in its place: its schema is of the whole."""
    try:
        return await gateway.blobs.whole(given, tenant)
    except Permanent as error:
        fault = FaultBody(path="$.input", message=str(error))
        raise ProblemError(422, "blob_unreadable", "A reference cannot be read", str(error), errors=[fault]) from error
    except ValueTooLargeError as error:
        raise ProblemError(413, "value_too_large", "The input is too large", str(error)) from error
    except Unavailable as error:
        hint = "send it again"
        raise ProblemError(503, "blob_store_away", "The blob store does not answer", str(error), hint=hint) from error


async def _check_input(gateway: Gateway, body: RunBody, tenant: str) -> None:
    known = await gateway.definitions.find(body.workflow)
    if not known:
        hint = nearest(body.workflow.partition("@")[0], await gateway.definitions.names(), "published workflows")
        fault = FaultBody(path="$.workflow", message=f"unknown workflow {body.workflow!r}", hint=hint or None)
        raise ProblemError(422, "unknown_workflow", "Unknown workflow", fault.message, hint=fault.hint, errors=[fault])
    given = await _whole(gateway, body.input, tenant) if any(each.schema is not None for each in known) else None
    for each in known:
        said = None if each.schema is None else each.schema.fault(given)
        if said is None:
            continue
        path, _, message = said.partition(": ")
        fault = FaultBody(path="$.input" + path.removeprefix("$"), message=message)
        detail = f"{fault.path}: {message}" + (f" (version {each.version})" if len(known) > 1 else "")
        raise ProblemError(422, "invalid_input", "The input misses the workflow's schema", detail, errors=[fault])


def _conflict(error: ConflictError) -> ProblemError:
    if error.what == "idempotency_key":
        detail = f"The key was used for another request, which started the run {error.run_id!r}."
        fault = FaultBody(path="header.idempotency-key", message=detail)
        return ProblemError(422, "idempotency_key_reused", "The idempotency key is taken", detail, errors=[fault])
    detail = f"The run {error.run_id!r} was requested before with another body."
    fault = FaultBody(path="$.run_id", message=detail)
    return ProblemError(409, "run_id_taken", "The run id is taken", detail, errors=[fault])

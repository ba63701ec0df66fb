"""Owns the HTTP of aliases: move one, list them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import ValidationError

from penstock.contracts.messages import Canary, WorkflowAliased
from penstock.runtime.clock import now_ms
from penstock.runtime.errors import NotAcknowledged
from penstock.workflow.aliases import versions_of
from penstock.workflow.faults import nearest
from services.gateway.acceptance import Origin
from services.gateway.api.bodies import AliasBody, AliasLine, AliasPage
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of, not_acknowledged
from services.gateway.api.strict import StrictRoute
from services.gateway.gateway import Gateway

KNOWN_SECONDS_MAX = 10
ALIASES_MAX = 10_000
TICK = timedelta(milliseconds=1)

router = APIRouter(
    prefix="/v1/aliases",
    tags=["workflows"],
    route_class=StrictRoute,
    responses={code: {"model": ProblemBody} for code in (400, 404, 409, 413, 422, 503)},
)

AliasOf = Annotated[str, Path(pattern="^[a-z][a-z0-9_-]{0,62}$", description="as `stable` in `greet@stable`")]


@router.get("", response_model=AliasPage)
async def list_aliases(request: Request, workflow: Annotated[str | None, Query(max_length=128)] = None) -> AliasPage:
    """List what all aliases mean, or those of one workflow."""
    rows = await gateway_of(request).reader.aliases(workflow, ALIASES_MAX)
    return AliasPage(aliases=[_line(row) for row in rows])


@router.put("/{name}/{alias}", response_model=AliasLine)
async def set_alias(request: Request, name: str, alias: AliasOf, body: AliasBody) -> AliasLine:
    """Move an alias: runs of `name@alias` that start from now on get this version, or a canary, by their run id."""
    gateway = gateway_of(request)
    known = await gateway.reader.alias(name, alias)
    now = datetime.fromtimestamp(now_ms() / 1000, UTC)
    # What was set last holds: a clock that is behind another instance's must not lose against what it moves.
    set_at = now if known is None else max(now, known["set_at"] + TICK)
    message = _message(name, alias, body, set_at)
    await _check_versions(gateway, message)
    try:
        await gateway.acceptance.alias(message, Origin("default"))
    except NotAcknowledged as error:
        raise not_acknowledged(error) from error
    for _ in range(KNOWN_SECONDS_MAX):
        row = await gateway.reader.alias(name, alias)
        if row is not None and row["set_at"] >= set_at:
            return _line(row)
        await gateway.live.definition()
    detail = "The broker has the alias; this gateway has not read it back yet."
    raise ProblemError(503, "not_yet_known", "Set, not known yet", detail, hint="set it again")


def _message(name: str, alias: str, body: AliasBody, set_at: datetime) -> WorkflowAliased:
    canaries = [Canary(version=canary.version, percent=canary.percent) for canary in body.canaries]
    try:
        return WorkflowAliased(name=name, alias=alias, version=body.version, canaries=canaries, set_at=set_at)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        fault = FaultBody(path="$.canaries", message=said)
        raise ProblemError(422, "invalid_alias", "The alias is not valid", said, errors=[fault]) from error


async def _check_versions(gateway: Gateway, message: WorkflowAliased) -> None:
    """All versions are published, and none is called as the alias is: a version goes before an alias."""
    for index, version in enumerate(versions_of(message)):
        if await gateway.reader.definition(message.name, version) is None:
            path = "$.version" if index == 0 else f"$.canaries[{index - 1}].version"
            text = f"{message.name}@{version} is not published"
            names = [
                row["version"] for row in await gateway.reader.definitions(ALIASES_MAX) if row["name"] == message.name
            ]
            fault = FaultBody(path=path, message=text, hint=nearest(version, names, "published versions") or None)
            raise ProblemError(422, "unknown_version", "No such version", text, hint=fault.hint, errors=[fault])
    if await gateway.reader.definition(message.name, message.alias) is not None:
        text = f"{message.name}@{message.alias} is a published version, which goes before an alias of that name"
        raise ProblemError(409, "version_taken", "The name is a version's", text, hint="choose another alias")


def _line(row: dict[str, Any]) -> AliasLine:
    body: dict[str, Any] = row["body"]
    return AliasLine(
        name=row["name"],
        alias=row["alias"],
        version=body["version"],
        canaries=body.get("canaries", []),
        set_at=row["set_at"],
    )

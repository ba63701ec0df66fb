"""Owns the HTTP of workflows: publish, list, read."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response, status

from penstock.runtime.clock import now_ms
from penstock.runtime.errors import NotAcknowledged
from penstock.workflow.notation import Document, parse, read
from penstock.workflow.publish import published, same
from services.gateway.acceptance import Origin
from services.gateway.api.bodies import DefinitionDetail, DefinitionLine, DefinitionPage
from services.gateway.api.problems import FaultBody, ProblemBody, ProblemError
from services.gateway.api.runs import gateway_of, not_acknowledged
from services.gateway.api.strict import StrictRequest, StrictRoute
from services.gateway.gateway import Gateway

KNOWN_SECONDS_MAX = 10
DEFINITIONS_MAX = 1_000

router = APIRouter(
    prefix="/v1/workflows",
    tags=["workflows"],
    route_class=StrictRoute,
    responses={code: {"model": ProblemBody} for code in (400, 404, 413, 422, 503)},
)

DEFINITION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "description": "a workflow definition"},
                "example": {
                    "name": "greet",
                    "tiers": {"small": [{"pool": "small", "model": "smollm2-135m"}]},
                    "do": {"id": "greeting", "model": "small", "prompt": "Greet {{ input.name }}."},
                },
            },
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}


@router.get("", response_model=DefinitionPage)
async def list_workflows(request: Request) -> DefinitionPage:
    """List all versions of all workflows, the newest of each name first."""
    rows = await gateway_of(request).reader.definitions(DEFINITIONS_MAX)
    lines: list[DefinitionLine] = []
    for row in rows:
        newest = not lines or lines[-1].name != row["name"]
        lines.append(DefinitionLine(**row, newest=newest))
    return DefinitionPage(workflows=lines)


@router.get("/{name}", response_model=DefinitionDetail)
async def read_workflow(
    request: Request, name: str, version: Annotated[str | None, Query(max_length=128)] = None
) -> DefinitionDetail:
    """Read one version, the newest where none is named."""
    return await _found(gateway_of(request), name, version)


@router.put("/{name}", response_model=DefinitionDetail, openapi_extra=DEFINITION_BODY)
async def publish_workflow(request: Request, name: str, response: Response) -> DefinitionDetail:
    """Publish a definition, immutable from then on; 200 where that version was published before."""
    gateway = gateway_of(request)
    document = await _document(request)
    if document.definition is None or document.faults:
        raise _faulty(document)
    if document.definition.name != name:
        detail = f"The definition is named {document.definition.name!r}, the address says {name!r}."
        fault = FaultBody(path="$.name", message=detail)
        raise ProblemError(422, "invalid_definition", "Two names", detail, errors=[fault])
    message = published(document.definition, datetime.fromtimestamp(now_ms() / 1000, UTC))
    known = await gateway.reader.definition(name, message.version)
    if known is not None:
        if not same(known["body"]["definition"], message.definition):
            detail = f"{name}@{message.version} was published with other content, and stays as it is."
            hint = "give the definition another version, or none"
            raise ProblemError(409, "version_taken", "The version is taken", detail, hint=hint)
        return await _found(gateway, name, message.version)
    if await gateway.reader.alias(name, message.version) is not None:
        detail = f"{name}@{message.version} is an alias; a version of that name would go before it."
        raise ProblemError(409, "alias_taken", "The version is an alias's name", detail, hint="choose another version")
    try:
        await gateway.acceptance.publish(message, Origin("default"))
    except NotAcknowledged as error:
        raise not_acknowledged(error) from error
    for _ in range(KNOWN_SECONDS_MAX):
        # Read back through the topic: whoever publishes and then starts a run finds the workflow known.
        await gateway.live.definition()
        if await gateway.reader.definition(name, message.version) is not None:
            response.status_code = status.HTTP_201_CREATED
            return await _found(gateway, name, message.version)
    detail = "The broker has the definition; this gateway has not read it back yet."
    raise ProblemError(503, "not_yet_known", "Published, not known yet", detail, hint="publish it again")


async def _found(gateway: Gateway, name: str, version: str | None) -> DefinitionDetail:
    row = await gateway.reader.definition(name, version)
    if row is None:
        detail = f"There is no workflow {name!r}" + ("." if version is None else f" with the version {version!r}.")
        raise ProblemError(404, "unknown_workflow", "No such workflow", detail, hint="see GET /v1/workflows")
    newest = await gateway.reader.definition(name, None)
    return DefinitionDetail(
        name=row["name"],
        version=row["version"],
        published_at=row["published_at"],
        newest=newest is not None and newest["version"] == row["version"],
        definition=row["body"]["definition"],
    )


async def _document(request: Request) -> Document:
    strict = StrictRequest(request.scope, request.receive)
    body = await strict.body()
    try:
        if request.headers.get("content-type", "").partition(";")[0].strip().endswith("yaml"):
            return await asyncio.to_thread(read, body.decode())  # seconds, where it is large
        return await asyncio.to_thread(parse, orjson.loads(body))
    except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
        fault = FaultBody(path="$", message=str(error))
        raise ProblemError(400, "malformed_json", "The body cannot be read", str(error), errors=[fault]) from error


def _faulty(document: Document) -> ProblemError:
    faults = [
        FaultBody(
            path=fault.path,
            message=fault.message if fault.line is None else f"line {fault.line}: {fault.message}",
            hint=fault.hint or None,
        )
        for fault in document.faults
    ]
    detail = "; ".join(str(fault) for fault in document.faults[:3])
    return ProblemError(422, "invalid_definition", "The definition is not sound", detail, errors=faults)

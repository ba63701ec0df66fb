"""Owns how the door says no: RFC 9457 problem documents that name the path of each fault."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from penstock.runtime.postgres import AWAY
from penstock.runtime.telemetry import logger
from penstock.workflow.schemas import json_path
from services.gateway.telemetry import LogEvent

MEDIA_TYPE: Final = "application/problem+json"
FAULTS_MAX: Final = 50


class FaultBody(BaseModel):
    """One fault: where in the request, and what."""

    path: str = Field(examples=["$.input.documents[0].name"])
    message: str = Field(examples=["1 is not of type 'string'"])
    hint: str | None = None


class ProblemBody(BaseModel):
    """RFC 9457, with `code` for machines and `errors` that name each fault's JSON path."""

    type: str = Field(examples=["urn:penstock:problem:invalid_input"])
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    hint: str | None = None
    errors: list[FaultBody] = []


class ProblemError(HTTPException):
    """Ends the request with a problem document. The framework lets its own kind through where it reads bodies."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        hint: str | None = None,
        errors: Sequence[FaultBody] = (),
    ) -> None:
        super().__init__(status, detail)
        self.code = code
        self.title = title
        self.hint = hint
        self.errors = errors


def document(problem: ProblemError, instance: str | None = None) -> Response:
    """The problem as a response."""
    body = ProblemBody(
        type=f"urn:penstock:problem:{problem.code}",
        title=problem.title,
        status=problem.status_code,
        detail=problem.detail,
        code=problem.code,
        instance=instance,
        hint=problem.hint,
        errors=list(problem.errors[:FAULTS_MAX]),
    )
    content = orjson.dumps(body.model_dump(exclude_none=True))
    return Response(content, problem.status_code, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Every failure leaves as a problem document."""

    @app.exception_handler(ProblemError)
    async def on_problem(request: Request, problem: ProblemError) -> Response:
        return document(problem, _instance(request))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return document(_of_validation(error.errors()), _instance(request))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        hint = "run ids in paths are percent-encoded, a slash as %2F" if error.status_code == 404 else None
        titles = {404: ("not_found", "There is nothing here"), 405: ("method_not_allowed", "Not this method")}
        code, title = titles.get(error.status_code, ("refused", "Refused"))
        problem = ProblemError(error.status_code, code, title, str(error.detail), hint=hint)
        return document(problem, _instance(request))

    async def on_away(request: Request, error: Exception) -> Response:
        logger("api").warning(LogEvent.REQUEST_FAILED, path=request.url.path, error=repr(error))
        detail = "The gateway could not reach what it needs for this request, as a rule Postgres; its log says what."
        problem = ProblemError(503, "unavailable", "A part does not answer", detail, hint="ask again in a moment")
        return document(problem, _instance(request))

    for kind in AWAY:
        app.add_exception_handler(kind, on_away)

    @app.exception_handler(Exception)
    async def on_failure(request: Request, error: Exception) -> Response:
        logger("api").error(LogEvent.REQUEST_FAILED, path=request.url.path, exc_info=error)
        detail = "The gateway failed on this request; its log says why."
        return document(ProblemError(500, "internal", "Failed", detail), _instance(request))


def _instance(request: Request) -> str:
    return str(request.scope["path"])


def _of_validation(errors: Sequence[Any]) -> ProblemError:
    if any(error["type"] == "json_invalid" for error in errors):
        error = errors[0]
        message = str(error.get("ctx", {}).get("error", error["msg"]))
        fault = FaultBody(path="$", message=message)
        return ProblemError(400, "malformed_json", "The body is not JSON", message, errors=[fault])
    faults = [FaultBody(path=_path(error["loc"]), message=error["msg"]) for error in errors]
    where = ", ".join(fault.path for fault in faults[:3])
    return ProblemError(422, "invalid_request", "The request is not valid", f"See {where}.", errors=faults)


def _path(location: Sequence[str | int]) -> str:
    """`$.labels.team` in the body; `query.limit`, `path.run_id` elsewhere."""
    place, *rest = location
    return json_path(rest) if place == "body" else ".".join(str(part) for part in location)

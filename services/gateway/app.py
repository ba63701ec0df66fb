"""Owns putting the door together: the application with its routers, its problems and its documents."""

from typing import Any

from fastapi import FastAPI

from services.gateway.api import aliases, blobs, capacity, costs, events, problems, reports, runs, text, workflows
from services.gateway.api.strict import Door
from services.gateway.console import page
from services.gateway.gateway import Gateway

DESCRIPTION = """Start runs, read and watch them, publish workflows, see what everything costs and how far it is behind.

Failures are RFC 9457 problem documents whose `errors` name the JSON path of each fault. What is read here was learnt
from topics, so that a run shows a moment after it was accepted."""


def build(gateway: Gateway) -> FastAPI:
    """The application; every request finds `gateway` at `app.state.gateway`."""
    app = FastAPI(title="Penstock gateway", version="1", description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.gateway = gateway
    problems.install(app)
    for router in (
        runs.starting,
        runs.router,
        blobs.router,
        events.router,
        text.router,
        workflows.router,
        aliases.router,
        costs.router,
        capacity.router,
        reports.router,
        page.router,
    ):
        app.include_router(router)
    app.add_middleware(Door)
    _document_problems(app)
    return app


def _document_problems(app: FastAPI) -> None:
    """Problems leave as application/problem+json; the document says so too."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            for path in document["paths"].values():
                for operation in path.values():
                    for code, response in operation["responses"].items():
                        content = response.get("content", {})
                        if code >= "400" and "application/json" in content:
                            response["content"] = {problems.MEDIA_TYPE: content["application/json"]}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its document

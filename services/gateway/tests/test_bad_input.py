"""Everything bad is a problem document that names the path of its fault."""

from typing import Any

import httpx
import orjson
import pytest

from penstock.contracts.blobs import VALUE_BYTES_MAX
from services.gateway.tests.conftest import GREET, Running

pytestmark = pytest.mark.stack

RUN = {"workflow": "greet", "input": {"name": "Ada"}}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "code", "path"),
    [
        (b'{"workflow": ', 400, "malformed_json", "$"),
        (b'{"workflow": "greet", "input": NaN}', 400, "malformed_json", "$"),
        (b'{"workflow": "\xff"}', 400, "malformed_json", "$"),
        (b"", 422, "invalid_request", "$"),
        (b"[]", 422, "invalid_request", "$"),
        (b"{}", 422, "invalid_request", "$.workflow"),
        (RUN | {"workflw": "x"}, 422, "invalid_request", "$.workflw"),
        (RUN | {"run_id": "a\nb"}, 422, "invalid_request", "$.run_id"),
        (RUN | {"labels": {"team": 1}}, 422, "invalid_request", "$.labels.team"),
        (RUN | {"budget": {"cost": {"amount": "-1"}}}, 422, "invalid_request", "$.budget.cost.amount"),
        (RUN | {"tenant": "nobody"}, 422, "unknown_tenant", "$.tenant"),
        (RUN | {"workflow": "gret"}, 422, "unknown_workflow", "$.workflow"),
        (RUN | {"workflow": "greet@9"}, 422, "unknown_workflow", "$.workflow"),
        (RUN | {"input": {}}, 422, "invalid_input", "$.input"),
        (RUN | {"input": {"name": "Ada", "tags": ["a", 1]}}, 422, "invalid_input", "$.input.tags[1]"),
        (RUN | {"input": {"name": "A" * VALUE_BYTES_MAX}}, 413, "value_too_large", "$.input.name"),
        (RUN | {"input": {"name": "A" * 2 * VALUE_BYTES_MAX}}, 413, "too_large", None),
    ],
)
async def test_a_bad_request_is_a_problem_that_names_the_path(
    gateway: Running, body: Any, status: int, code: str, path: str | None
) -> None:
    # Given a bad request, when it is sent
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await gateway.http.post("/v1/runs", content=content, headers=JSON)

    # Then the problem says what and where
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert path is None or problem["errors"][0]["path"] == path
    assert problem["type"] == f"urn:penstock:problem:{code}"


async def test_a_misspelled_workflow_is_answered_with_the_nearest_name(gateway: Running) -> None:
    # Given a misspelled name, when a run is asked for
    answer = await gateway.http.post("/v1/runs", json=RUN | {"workflow": "gret"})

    # Then the hint is the name that was meant
    assert answer.json()["hint"] == "did you mean `greet`?"


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/runs/nobody", {}, 404, "unknown_run"),
        ("GET", "/v1/runs/a%0Ab", {}, 400, "invalid_run_id"),
        ("GET", "/v1/runs/%ff", {}, 400, "invalid_run_id"),
        ("GET", "/v1/runs/nobody/events", {}, 404, "unknown_run"),
        ("GET", "/v1/runs/live/events", {"last-event-id": "x"}, 400, "invalid_event_id"),
        ("GET", "/v1/runs?cursor=x", {}, 422, "invalid_cursor"),
        ("GET", "/v1/runs?limit=1000", {}, 422, "invalid_request"),
        ("GET", "/v1/runs?tenant=A/B", {}, 422, "invalid_tenant"),
        ("GET", "/v1/costs?by=tennant", {}, 422, "invalid_request"),
        ("GET", "/v1/workflows/nobody", {}, 404, "unknown_workflow"),
        ("GET", "/nowhere", {}, 404, "not_found"),
        ("DELETE", "/v1/runs", {}, 405, "method_not_allowed"),
        ("POST", "/v1/runs/nobody/cancel", JSON, 404, "unknown_run"),
        ("POST", "/v1/runs", {"content-type": "text/plain"}, 415, "content_type"),
        ("GET", "/v1/runs", {"host": "evil.example"}, 421, "wrong_host"),
    ],
)
async def test_a_bad_address_is_a_problem(
    gateway: Running, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    # Given an address that leads nowhere, when it is asked for
    answer = await gateway.http.request(method, path, headers=headers)

    # Then the answer is a problem
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_definition_with_a_dangling_reference_is_refused_with_its_path(gateway: Running) -> None:
    # Given a prompt that names what is not there
    definition = GREET | {"do": GREET["do"] | {"prompt": "{{ input.nam }} {{ nothing.here }}"}}

    # When it is published as JSON and as YAML
    answers: list[httpx.Response] = [
        await gateway.http.put("/v1/workflows/greet", json=definition),
        await gateway.http.put(
            "/v1/workflows/greet", content=orjson.dumps(definition), headers={"content-type": "application/yaml"}
        ),
    ]

    # Then both name the place
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_definition")
        assert {error["path"] for error in answer.json()["errors"]} == {"$.do.prompt"}


async def test_a_version_is_immutable(gateway: Running) -> None:
    # Given a version that was published
    versioned = GREET | {"name": "fixed", "version": "1.0"}
    first = await gateway.http.put("/v1/workflows/fixed", json=versioned)

    # When it is published again, the same and changed
    same = await gateway.http.put("/v1/workflows/fixed", json=versioned)
    changed = await gateway.http.put("/v1/workflows/fixed", json=versioned | {"description": "another"})

    # Then the first stays
    assert (first.status_code, same.status_code, changed.status_code) == (201, 200, 409)
    listed = (await gateway.http.get("/v1/workflows")).json()["workflows"]
    assert ("fixed", "1.0", True) in {(line["name"], line["version"], line["newest"]) for line in listed}

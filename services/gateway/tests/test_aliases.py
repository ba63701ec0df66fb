"""The door's aliases: moved, listed, refused; runs of one are accepted where the input fits whatever they may get."""

import copy
from typing import Any

import pytest

from services.gateway.tests.conftest import GREET, Running

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def published(gateway: Running) -> Running:
    """Versions 1 and 2 of a workflow, the second with a field more that it needs."""
    for version, needed in (("1", []), ("2", ["tone"])):
        body: dict[str, Any] = copy.deepcopy(GREET) | {"name": "hail", "version": version}
        body["input"]["required"] = ["name", *needed]
        body["input"]["properties"]["tone"] = {"type": "string"}
        assert (await gateway.http.put("/v1/workflows/hail", json=body)).status_code == 201
    return gateway


async def test_an_alias_is_set_moved_and_listed(published: Running) -> None:
    # Given an alias that nobody set, when it is set and then moved to another version with a canary
    path = "/v1/aliases/hail/stable"
    first = await published.http.put(path, json={"version": "1"})
    moved = await published.http.put(path, json={"version": "2", "canaries": [{"version": "1", "percent": 12.5}]})

    # Then it is what was said last, for everybody who asks
    assert (first.status_code, first.json()["version"], first.json()["canaries"]) == (200, "1", [])
    assert (moved.status_code, moved.json()["version"]) == (200, "2")
    assert moved.json()["set_at"] > first.json()["set_at"]
    for address in ("/v1/aliases", "/v1/aliases?workflow=hail"):
        listed = (await published.http.get(address)).json()["aliases"]
        assert listed == [moved.json()]
    assert (await published.http.get("/v1/aliases?workflow=greet")).json() == {"aliases": []}


async def test_a_run_of_an_alias_must_fit_all_that_it_can_get(published: Running) -> None:
    # Given an alias with a canary that needs more
    body = {"version": "1", "canaries": [{"version": "2", "percent": 1}]}
    assert (await published.http.put("/v1/aliases/hail/beta", json=body)).status_code == 200

    # When runs are asked for, with the field, without it, and of an alias that is none
    run = {"workflow": "hail@beta", "input": {"name": "Ada", "tone": "warm"}}
    fitting = await published.http.post("/v1/runs", json=run)
    missing = await published.http.post("/v1/runs", json=run | {"input": {"name": "Ada"}})
    unknown = await published.http.post("/v1/runs", json=run | {"workflow": "hail@nightly"})

    # Then only the first is accepted, and the second is told which version minds
    assert fitting.status_code == 202
    assert missing.json()["code"] == "invalid_input"
    assert missing.json()["detail"].endswith("(version 2)")
    assert unknown.json()["code"] == "unknown_workflow"


@pytest.mark.parametrize(
    ("path", "body", "code", "said"),
    [
        ("hail/stable", {"version": "3"}, "unknown_version", "hail@3 is not published"),
        ("nosuch/stable", {"version": "1"}, "unknown_version", "nosuch@1 is not published"),
        ("hail/stable", {"version": "1", "canaries": [{"version": "9", "percent": 5}]}, "unknown_version", "hail@9"),
        (
            "hail/stable",
            {"version": "1", "canaries": [{"version": "1", "percent": 5}]},
            "invalid_alias",
            "stands twice",
        ),
        ("hail/stable", {"version": "1", "canaries": [{"version": "2", "percent": 101}]}, "invalid_request", "100"),
        ("hail/stable", {"version": "1", "canary": []}, "invalid_request", "canary"),
        ("hail/Stable", {"version": "1"}, "invalid_request", "pattern"),
    ],
)
async def test_what_no_alias_can_mean_is_refused(
    published: Running, path: str, body: dict[str, Any], code: str, said: str
) -> None:
    answer = await published.http.put(f"/v1/aliases/{path}", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert said in answer.text


async def test_versions_and_aliases_cannot_have_each_others_names(published: Running) -> None:
    # Given an alias and a version
    assert (await published.http.put("/v1/aliases/hail/taken", json={"version": "1"})).status_code == 200
    named = copy.deepcopy(GREET) | {"name": "hail", "version": "release"}
    assert (await published.http.put("/v1/workflows/hail", json=named)).status_code == 201

    # When each is wanted as the other
    version = await published.http.put("/v1/workflows/hail", json=named | {"version": "taken"})
    alias = await published.http.put("/v1/aliases/hail/release", json={"version": "1"})

    # Then both are refused
    assert (version.status_code, version.json()["code"]) == (409, "alias_taken")
    assert (alias.status_code, alias.json()["code"]) == (409, "version_taken")

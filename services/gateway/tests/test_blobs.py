"""Owns the stories of blobs at the door: stored and read by their tenant, and in the inputs of runs."""

import pytest

from penstock.contracts.blobs import VALUE_BYTES_MAX
from services.gateway.api.views import PREVIEW_CHARACTERS, blob_links
from services.gateway.tests.conftest import Running

pytestmark = pytest.mark.stack

PNG = b"\x89PNG\r\n\x1a\n not really"


async def test_an_image_is_stored_once_and_read_by_its_tenant(gateway: Running) -> None:
    stored = await gateway.http.post("/v1/blobs?tenant=acme", content=PNG, headers={"content-type": "image/png"})
    again = await gateway.http.post("/v1/blobs?tenant=acme", content=PNG, headers={"content-type": "image/png"})

    assert (stored.status_code, again.json()) == (201, stored.json())
    reference = stored.json()
    assert (reference["bytes"], reference["media_type"]) == (len(PNG), "image/png")
    read = await gateway.http.get(f"/v1/blobs/{reference['$blob']}?tenant=acme&media_type=image/png")
    assert (read.status_code, read.content, read.headers["content-type"]) == (200, PNG, "image/png")
    assert read.headers["x-content-type-options"] == "nosniff"


async def test_a_person_is_shown_how_a_large_value_begins(gateway: Running) -> None:
    document = "Über die Wasserkraft. " * 5_000
    stored = (await gateway.http.post("/v1/blobs?tenant=acme", json=document)).json()
    ((label, link),) = blob_links({"report": {"text": stored}, "n": 1}, "acme")

    shown = await gateway.http.get(link)

    assert label == f"{stored['bytes']} bytes of application/json"
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    assert shown.text == f'"{document}"'[:PREVIEW_CHARACTERS]


async def test_a_blob_is_nobody_elses(gateway: Running) -> None:
    """Guard: a digest opens nothing of another tenant's."""
    stored = await gateway.http.post("/v1/blobs?tenant=acme", json={"secret": 1})

    for address in ("?tenant=default", "", "?tenant=nobody"):
        read = await gateway.http.get(f"/v1/blobs/{stored.json()['$blob']}{address}")
        assert read.status_code in (404, 422)
        assert b"secret" not in read.content


async def test_a_blob_is_never_a_page(gateway: Running) -> None:
    """Guard: what somebody uploaded is not run by the browser of whoever looks at it."""
    stored = await gateway.http.post("/v1/blobs", json="<script>alert(1)</script>")

    read = await gateway.http.get(f"/v1/blobs/{stored.json()['$blob']}?media_type=text/html")

    assert read.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in read.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("digest", "status", "code"),
    [("sha256:12", 400, "invalid_digest"), (f"sha256:{'0a' * 32}", 404, "unknown_blob")],
)
async def test_what_is_no_blob_is_said_so(gateway: Running, digest: str, status: int, code: str) -> None:
    read = await gateway.http.get(f"/v1/blobs/{digest}")

    assert (read.status_code, read.json()["code"]) == (status, code)


async def test_a_blob_that_is_too_large_is_refused(gateway: Running) -> None:
    octets = {"content-type": "application/octet-stream"}

    refused = await gateway.http.post("/v1/blobs", content=b"x" * (VALUE_BYTES_MAX + 1), headers=octets)

    assert (refused.status_code, refused.json()["code"]) == (413, "value_too_large")


async def test_another_sites_form_cannot_store_a_blob(gateway: Running) -> None:
    refused = await gateway.http.post("/v1/blobs", content=b"x", headers={"content-type": "text/plain"})

    assert refused.status_code == 415


async def test_an_input_is_checked_whole_whether_it_comes_as_a_reference_or_not(gateway: Running) -> None:
    tags = ["t" * 100] * 1_000
    right = await gateway.http.post("/v1/blobs", json=tags)
    wrong = await gateway.http.post("/v1/blobs", json=[*tags, 7])

    accepted = await gateway.http.post(
        "/v1/runs", json={"workflow": "greet", "input": {"name": "Ada", "tags": right.json()}}
    )
    refused = await gateway.http.post(
        "/v1/runs", json={"workflow": "greet", "input": {"name": "Ada", "tags": wrong.json()}}
    )
    missing = {**right.json(), "$blob": f"sha256:{'0a' * 32}"}
    lost = await gateway.http.post("/v1/runs", json={"workflow": "greet", "input": {"name": "Ada", "tags": missing}})

    assert accepted.status_code == 202
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.input.tags[1000]")
    assert (lost.status_code, lost.json()["code"]) == (422, "blob_unreadable")


async def test_the_same_large_input_again_is_the_same_request(gateway: Running) -> None:
    body = {"workflow": "greet", "run_id": "large-twice", "input": {"name": "Ada", "tags": ["t" * 200] * 1_000}}

    first = await gateway.http.post("/v1/runs", json=body)
    second = await gateway.http.post("/v1/runs", json=body)
    other = await gateway.http.post("/v1/runs", json={**body, "input": {"name": "Ada", "tags": ["u" * 200] * 1_000}})

    assert (first.status_code, second.status_code, other.status_code) == (202, 202, 409)

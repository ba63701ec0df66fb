"""Owns what every blob store does alike: one in memory, one in a folder, one that speaks S3 over HTTP."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from penstock.contracts.blobs import VALUE_BYTES_MAX, Reference, ValueTooLargeError, reference_to
from penstock.runtime.blobs import BlobCorruptError, BlobMissingError, Blobs, NoBlobStoreError
from penstock.runtime.errors import Unavailable

DOCUMENT = b'{"title": "On pipes"}'


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    httpx.put(f"{endpoint}/values").raise_for_status()
    yield endpoint
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint, and what an operator sets for it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "penstock")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not a secret")
    return s3_endpoint


@pytest.fixture(params=["memory", "folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://values/{tmp_path.name}"
    return "memory://" if request.param == "memory" else (tmp_path / "blobs of all").as_uri()


@pytest.fixture(params=[0, 1_000], ids=["uncached", "cached"])
def blobs(request: pytest.FixtureRequest, url: str) -> Blobs:
    return Blobs(url, cache_bytes_max=request.param)


async def test_what_is_stored_is_read_by_its_reference(blobs: Blobs) -> None:
    reference = await blobs.put(DOCUMENT, "acme", "text/plain")

    assert reference == reference_to(DOCUMENT, "text/plain")
    assert await blobs.read(reference, "acme") == DOCUMENT
    assert await blobs.read(reference.to_value(), "acme") == DOCUMENT
    assert await blobs.read_digest(reference.digest, "acme") == DOCUMENT


async def test_the_same_content_again_is_the_same_blob(blobs: Blobs) -> None:
    first, second = await asyncio.gather(*(blobs.put(DOCUMENT, "acme") for _ in range(2)))

    assert first == second
    assert await blobs.read(second, "acme") == DOCUMENT


async def test_a_tenant_reads_nothing_of_anothers_by_its_digest(blobs: Blobs) -> None:
    """Guard: to know a document's digest is not to have it."""
    reference = await blobs.put(DOCUMENT, "acme")

    for tenant in ("blue-river", "acme2", "acm", "../acme", ""):
        with pytest.raises(BlobMissingError):
            await blobs.read(reference, tenant)


async def test_what_was_never_stored_is_missing(blobs: Blobs) -> None:
    with pytest.raises(BlobMissingError, match="never stored for this tenant, or it has expired"):
        await blobs.read(Reference("0a" * 32, 1), "acme")


async def test_a_reference_that_says_another_size_is_refused(blobs: Blobs) -> None:
    reference = await blobs.put(DOCUMENT, "acme")

    with pytest.raises(BlobCorruptError, match="its reference says 3"):
        await blobs.read(Reference(reference.digest, 3), "acme")


async def test_a_value_travels_small_and_is_whole_again(blobs: Blobs) -> None:
    value = {"document": {"pages": ["p" * 90_000, "q" * 90_000]}, "name": "n"}

    small = await blobs.stored(value, "acme")

    assert small["name"] == "n"
    assert len(str(small)) < 1_000
    assert await blobs.whole(small, "acme") == value
    assert await blobs.whole({"name": "n"}, "acme") == {"name": "n"}
    with pytest.raises(BlobMissingError):
        await blobs.whole(small, "blue-river")


async def test_what_is_too_large_is_not_stored(blobs: Blobs) -> None:
    with pytest.raises(ValueTooLargeError):
        await blobs.put(b"x" * (VALUE_BYTES_MAX + 1), "acme")


async def test_a_blob_that_is_no_json_is_none_of_a_value(blobs: Blobs) -> None:
    reference = await blobs.put(b"{", "acme")

    with pytest.raises(BlobCorruptError, match="is not JSON"):
        await blobs.whole([reference.to_value()], "acme")


async def test_without_a_store_nothing_large_goes_anywhere() -> None:
    blobs = Blobs("")

    assert not blobs.there
    assert await blobs.whole({"a": 1}, "acme") == {"a": 1}
    with pytest.raises(NoBlobStoreError, match="PENSTOCK_BLOB_URL"):
        await blobs.put(DOCUMENT, "acme")
    with pytest.raises(NoBlobStoreError, match="PENSTOCK_BLOB_URL"):
        await blobs.read(reference_to(DOCUMENT), "acme")


@pytest.mark.usefixtures("s3")
async def test_a_bucket_that_is_not_there_makes_nothing_missing() -> None:
    """Guard: a typing error in PENSTOCK_BLOB_URL is waited out, and does not fail runs for good."""
    blobs = Blobs("s3://vaules/all")

    with pytest.raises(Unavailable, match="the blob store does not take"):
        await blobs.put(DOCUMENT, "acme")
    with pytest.raises(Unavailable, match="the blob store's bucket is not there"):
        await blobs.read(reference_to(DOCUMENT), "acme")


async def test_a_server_that_is_away_is_waited_for(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: nothing that is on a server that cannot be reached is missing."""
    reference = await Blobs("s3://values/all").put(DOCUMENT, "acme")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = Blobs("s3://values/all")

    with pytest.raises(Unavailable, match="the blob store does not give"):
        await away.read(reference, "acme")
    with pytest.raises(Unavailable, match="the blob store does not take"):
        await away.put(DOCUMENT, "acme")

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    assert await Blobs("s3://values/all").read(reference, "acme") == DOCUMENT

"""Owns what every blob store does alike: one in memory, one in a folder."""

import asyncio
from pathlib import Path

import pytest

from penstock.contracts.blobs import VALUE_BYTES_MAX, Reference, ValueTooLargeError, reference_to
from penstock.runtime.blobs import BlobCorruptError, BlobMissingError, Blobs, NoBlobStoreError

DOCUMENT = b'{"title": "On pipes"}'


@pytest.fixture(params=["memory", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
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

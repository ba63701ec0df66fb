"""Owns the stories of a blob store in a folder: what may happen to its files, and how long they are kept."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.contracts.blobs import Reference
from penstock.runtime.blobs import BlobCorruptError, BlobMissingError, Blobs
from penstock.runtime.errors import Unavailable
from penstock.testkit.blob_folder import bring_back, take_away

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(folder: Path) -> Blobs:
    """A store that reads every time."""
    return Blobs(folder.as_uri(), cache_bytes_max=0)


def file_of(folder: Path, reference: Reference, tenant: str = "acme") -> Path:
    return folder / tenant / reference.digest[:2] / reference.digest


async def test_a_corrupt_blob_is_told_apart_and_heals_when_it_is_stored_again(blobs: Blobs, folder: Path) -> None:
    reference = await blobs.put(b'"hello"', "acme")
    file_of(folder, reference).write_bytes(b'"hellO"')

    with pytest.raises(BlobCorruptError, match=f"the blob sha256:{reference.digest} is corrupt"):
        await blobs.read(reference, "acme")

    await blobs.put(b'"hello"', "acme")
    assert await blobs.read(reference, "acme") == b'"hello"'


async def test_a_folder_that_is_away_is_waited_for_and_nothing_in_it_is_missing(blobs: Blobs, folder: Path) -> None:
    """Guard: a folder that is not mounted does not make blobs missing, nor is a new one made in its place."""
    reference = await blobs.put(b"1", "acme")
    take_away(folder)

    with pytest.raises(Unavailable, match="is not there"):
        await blobs.read(reference, "acme")
    with pytest.raises(Unavailable, match="is not there"):
        await blobs.put(b"2", "acme")
    with pytest.raises(Unavailable, match="is not there"):
        await blobs.expire(NOW)

    bring_back(folder)
    assert await blobs.read(reference, "acme") == b"1"


async def test_what_nobody_wrote_for_long_is_removed(blobs: Blobs, folder: Path) -> None:
    old, again, new = [await blobs.put(content, "acme") for content in (b"old", b"again", b"new")]
    for reference in (old, again):
        os.utime(file_of(folder, reference), (NOW.timestamp(), NOW.timestamp() - 100))
    os.utime(file_of(folder, new), (NOW.timestamp(), NOW.timestamp()))
    await blobs.put(b"again", "acme")  # who refers to it stores it first, and so it is as young as its reference

    assert await blobs.expire(NOW - timedelta(seconds=50)) == 1

    with pytest.raises(BlobMissingError):
        await blobs.read(old, "acme")
    assert await blobs.read(again, "acme") == b"again"
    assert await blobs.read(new, "acme") == b"new"


async def test_the_cache_keeps_what_was_used_last(folder: Path) -> None:
    blobs = Blobs(folder.as_uri(), cache_bytes_max=10)
    first, second = await blobs.put(b"11111", "acme"), await blobs.put(b"22222", "acme")
    await blobs.read(first, "acme")
    third = await blobs.put(b"33333", "acme")
    for reference in (first, second, third):
        file_of(folder, reference).unlink()

    assert await blobs.read(first, "acme") == b"11111"
    assert await blobs.read(third, "acme") == b"33333"
    with pytest.raises(BlobMissingError):
        await blobs.read(second, "acme")


def test_a_url_of_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="no blob store at"):
        Blobs("ftp://somewhere/else")

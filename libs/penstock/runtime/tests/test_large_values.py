"""Owns the stories of large values at an executor: read before the work, stored after it, an away store waited for."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from penstock.contracts.blobs import VALUE_BYTES_MAX, Reference, reference_of
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import NextMove, TaskRequested, WorkError
from penstock.runtime import large_values
from penstock.runtime.blobs import Blobs
from penstock.runtime.large_values import LargeValueError, LargeValues
from penstock.runtime.work import Work, read
from penstock.testkit.blob_folder import bring_back, damage, take_away
from penstock.testkit.received import Record

AT_MS = 1_795_000_000_000
KEY = run_key("acme", "r")
DOCUMENT = {"text": "x" * 300_000, "name": "n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> LargeValues:
    monkeypatch.setattr(large_values, "WAIT_SECONDS_FIRST", 0.001)
    return LargeValues(Blobs(folder.as_uri(), cache_bytes_max=0), lambda: AT_MS)


@pytest.fixture
async def away(folder: Path, large: LargeValues) -> AsyncIterator[asyncio.Event]:
    """The store is away until this is set."""
    take_away(folder)
    back = asyncio.Event()

    async def come_back() -> None:
        await back.wait()
        bring_back(folder)

    coming = asyncio.create_task(come_back())
    yield back
    back.set()
    await coming


def a_request(given: Any, seconds: float = 60.0) -> Work[TaskRequested]:
    request = TaskRequested(
        request_id=request_id(KEY, "s", 1),
        tenant="acme",
        run_key=KEY,
        run_id="r",
        home=1,
        workflow="w",
        version="1",
        step="s",
        attempt=1,
        deadline=datetime.fromtimestamp(AT_MS / 1000 + seconds, UTC),
        queue="default",
        task="t",
        input=given,
    )
    return read(TaskRequested, Record(request.to_json(), timestamp=AT_MS), 4)


async def refused(large: LargeValues, work: Work[TaskRequested]) -> WorkError:
    with pytest.raises(LargeValueError) as error:
        await large.whole(work, work.request.input)
    return error.value.error


async def test_a_large_output_travels_small_and_the_next_step_has_it_whole(large: LargeValues) -> None:
    output = await large.stored(a_request({}), orjson.dumps(DOCUMENT))

    assert isinstance(output, bytes)
    assert len(output) < 1_000
    work = a_request(orjson.loads(output))
    assert work.refers
    assert await large.whole(work, work.request.input) == DOCUMENT


async def test_what_is_small_is_left_as_it_is(large: LargeValues) -> None:
    work = a_request({"a": 1})

    assert not work.refers
    assert await large.whole(work, work.request.input) is work.request.input
    assert await large.stored(work, b'{ "a": 1 }') == b'{ "a": 1 }'


async def test_an_output_beyond_all_limits_is_a_failure_that_names_the_path(large: LargeValues) -> None:
    error = await large.stored(a_request({}), orjson.dumps({"text": "x" * VALUE_BYTES_MAX}))

    assert isinstance(error, WorkError)
    assert (error.code, error.next) == ("value_too_large", NextMove.GIVE_UP)
    assert error.message.startswith("output.text has ")


async def test_a_store_that_is_away_is_waited_for(large: LargeValues, away: asyncio.Event) -> None:
    storing = asyncio.create_task(large.stored(a_request({}), orjson.dumps(DOCUMENT)))
    done, _ = await asyncio.wait([storing], timeout=0.05)
    assert not done

    away.set()

    output = await storing
    assert isinstance(output, bytes)
    assert reference_of(orjson.loads(output)["text"]) is not None


async def test_a_store_that_stays_away_is_waited_for_until_the_deadline(
    large: LargeValues, away: asyncio.Event
) -> None:
    reference = Reference("0a" * 32, 100).to_value()

    error = await refused(large, a_request([reference], seconds=0.002))
    stored = await large.stored(a_request({}, seconds=0.002), orjson.dumps(DOCUMENT))

    assert not away.is_set()
    assert (error.code, error.next) == ("blob_store_away", NextMove.RETRY_AFTER)
    assert isinstance(stored, WorkError)
    assert (stored.code, stored.next) == ("blob_store_away", NextMove.RETRY_AFTER)


async def test_a_blob_that_is_not_there_or_corrupt_is_a_clear_failure(large: LargeValues, folder: Path) -> None:
    missing = await refused(large, a_request([Reference("0a" * 32, 100).to_value()]))
    assert (missing.code, missing.next) == ("blob_unreadable", NextMove.GIVE_UP)
    assert "there is no blob" in missing.message

    output = await large.stored(a_request({}), orjson.dumps(DOCUMENT))
    assert isinstance(output, bytes)
    damage(folder)
    corrupt = await refused(large, a_request(orjson.loads(output)))
    assert corrupt.code == "blob_unreadable"
    assert "is corrupt" in corrupt.message


async def test_without_a_store_what_fits_a_record_travels_as_it_is() -> None:
    output = orjson.dumps(DOCUMENT)

    assert await LargeValues(Blobs(""), lambda: AT_MS).stored(a_request({}), output) == output

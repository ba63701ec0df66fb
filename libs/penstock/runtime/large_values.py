"""Owns large values at an executor: what a request refers to is read before its work, a large output stored after it.

A store that is away is waited for as long as the request has time: work that was done is not thrown away for it, and
past the deadline nobody awaits the answer any more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import orjson

from penstock.contracts.blobs import INLINE_BYTES_MAX, ValueTooLargeError
from penstock.contracts.messages import NextMove, WorkError
from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Permanent, Unavailable
from penstock.runtime.telemetry import LogEvent, logger
from penstock.runtime.work import Work, failed

WAIT_SECONDS_FIRST: Final = 0.1
WAIT_SECONDS_MAX: Final = 5.0

T = TypeVar("T")

_log = logger("large_values")


class LargeValueError(Exception):
    """A value could not be read or stored; `error` is the attempt's answer."""

    def __init__(self, error: WorkError) -> None:
        super().__init__(error.message)
        self.error = error


class LargeValues:
    """What an executor does with values over 64 KiB."""

    def __init__(self, blobs: Blobs, now_ms: Callable[[], int]) -> None:
        self.blobs: Final = blobs
        self._now_ms: Final = now_ms

    async def whole(self, work: Work[Any], value: Any) -> Any:
        """A value of the request with what its references stand for. Raises LargeValueError."""
        if not work.refers:
            return value
        return await self._patiently(work, "read", lambda: self.blobs.whole(value, work.request.tenant))

    async def stored(self, work: Work[Any], output: bytes | WorkError) -> bytes | WorkError:
        """An output as it travels: where it is large it is stored, and referred to. A failure where it cannot be."""
        if isinstance(output, WorkError) or len(output) <= INLINE_BYTES_MAX or not self.blobs.there:
            return output
        value, tenant = orjson.loads(output), work.request.tenant
        try:
            small = await self._patiently(work, "stored", lambda: self.blobs.stored(value, tenant, "output"))
        except LargeValueError as error:
            return error.error
        return orjson.dumps(small)

    async def _patiently(self, work: Work[Any], done: str, attempt: Callable[[], Awaitable[T]]) -> T:
        wait_seconds = WAIT_SECONDS_FIRST
        while True:
            try:
                return await attempt()
            except ValueTooLargeError as error:
                raise LargeValueError(failed("value_too_large", str(error))) from error
            except Permanent as error:
                raise LargeValueError(failed("blob_unreadable", str(error))) from error
            except Unavailable as error:
                left_seconds = (work.deadline_at_ms - self._now_ms()) / 1000
                if left_seconds <= wait_seconds:
                    text = f"a large value could not be {done} in time: {error}"
                    raise LargeValueError(failed("blob_store_away", text, NextMove.RETRY_AFTER)) from error
                _log.warning(LogEvent.BLOB_STORE_AWAITED, request_id=str(work.request.request_id), reason=str(error))
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, WAIT_SECONDS_MAX)

"""Owns the removal of finished runs and old blobs after their retention, a little at a time."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Unavailable
from services.orchestrator.shell.store import Store
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()

_RUNS_PER_DELETE_MAX = 1_000
_PAUSE_SECONDS = 60.0
_BLOBS_PAUSE_SECONDS = 3_600.0
"""To look for old blobs is to list the whole folder."""


async def remove_finished_runs(store: Store, clock: Callable[[], int], retention_ms: int, stop: asyncio.Event) -> None:
    """Delete runs that ended longer than `retention_ms` ago, until `stop` is set."""
    while not stop.is_set():
        try:
            removed = await store.delete_finished_runs(clock() - retention_ms, _RUNS_PER_DELETE_MAX)
            if removed:
                log.info(OrchestratorEvent.RUNS_REMOVED, runs=removed)
            if removed == _RUNS_PER_DELETE_MAX:
                continue
        except Unavailable as error:
            log.warning(OrchestratorEvent.RETENTION_WAITING, reason=str(error))
        await _pause(stop, _PAUSE_SECONDS)


async def remove_old_blobs(blobs: Blobs, clock: Callable[[], int], retention_ms: int, stop: asyncio.Event) -> None:
    """Delete blobs of a local folder that nobody has written for `retention_ms`, until `stop` is set."""
    while not stop.is_set() and blobs.expires:
        try:
            removed = await blobs.expire(datetime.fromtimestamp((clock() - retention_ms) / 1000, UTC))
            if removed:
                log.info(OrchestratorEvent.BLOBS_REMOVED, blobs=removed)
        except Unavailable as error:
            log.warning(OrchestratorEvent.RETENTION_WAITING, reason=str(error))
        await _pause(stop, _BLOBS_PAUSE_SECONDS)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)

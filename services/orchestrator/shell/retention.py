"""Owns the removal of finished runs after their retention, a little at a time."""

import asyncio
from collections.abc import Callable

import structlog

from penstock.runtime.errors import Unavailable
from services.orchestrator.shell.store import Store
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()

_RUNS_PER_DELETE_MAX = 1_000
_PAUSE_SECONDS = 60.0


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
        try:
            await asyncio.wait_for(stop.wait(), _PAUSE_SECONDS)
        except TimeoutError:
            continue

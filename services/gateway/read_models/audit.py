"""Owns watching that the ledger closes: what it lacks or has too much for the engines' time becomes a metric."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from penstock.runtime.clock import now_ms
from penstock.runtime.postgres import AWAY
from penstock.runtime.telemetry import logger
from services.gateway.read_models.costs import Ledger
from services.gateway.read_models.reconcile import reconciled
from services.gateway.telemetry import Instruments, LogEvent

EVERY_SECONDS: Final = 60.0
LOOK_BACK: Final = timedelta(days=1)
SETTLED_AFTER: Final = timedelta(minutes=2)
"""Usage and accounts come on two topics: a life that has just been closed may have some of it on the way."""


async def audit(ledger: Ledger, instruments: Instruments, now: datetime) -> None:
    """Closes the ledger for the lives of engines that were closed within a day."""
    lives = await ledger.lives(now - LOOK_BACK, now)
    done = [life for life in lives if life.closed and life.until is not None and life.until < now - SETTLED_AFTER]
    instruments.ledger_difference.clear()
    for pool in reconciled(done, now):
        instruments.ledger_difference.labels(pool.pool, pool.gpu_type, pool.currency).set(float(pool.difference))


async def audit_for_ever(ledger: Ledger, instruments: Instruments, stop: asyncio.Event) -> None:
    """Closes it now and then until the service stops."""
    log = logger("audit")
    while not stop.is_set():
        try:
            await audit(ledger, instruments, datetime.fromtimestamp(now_ms() / 1000, UTC))
        except (asyncpg.PostgresError, *AWAY) as error:
            log.warning(LogEvent.AUDIT_FAILED, reason=repr(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY_SECONDS)

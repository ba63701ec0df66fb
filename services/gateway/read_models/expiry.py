"""Owns forgetting: rows past their retention go, a bounded number per transaction."""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg

from penstock.runtime.clock import now_ms
from penstock.runtime.postgres import AWAY, load_queries
from penstock.runtime.telemetry import logger
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import LogEvent

EVERY_SECONDS: Final = 600.0
ROWS_MAX: Final = 1_000

_EXPIRE: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "expire.sql")


def retentions(settings: GatewaySettings) -> dict[str, timedelta]:
    """How long each statement of sql/expire.sql lets rows stay."""
    ledger = timedelta(days=settings.gateway_ledger_retention_days)
    accepted = timedelta(hours=settings.gateway_accepted_retention_hours)
    return {
        "expire_runs": timedelta(days=settings.gateway_runs_retention_days),
        "expire_usage": ledger,
        "expire_costs": ledger,
        "expire_label_costs": ledger,
        "expire_label_values": ledger,
        "expire_run_costs": ledger,
        "expire_repeats": ledger,
        "expire_stretches": ledger,
        "expire_engines": ledger,
        "expire_engine_usage": ledger,
        "expire_accepted": accepted,
        "expire_keys": accepted,
    }


async def expire(pool: asyncpg.Pool, settings: GatewaySettings, now: datetime) -> int:
    """Forgets all that is too old; answers how many rows led the deletions."""
    total = 0
    for statement, retention in retentions(settings).items():
        while count := await pool.fetchval(_EXPIRE[statement], now - retention, ROWS_MAX):
            total += count
    return total


async def expire_for_ever(pool: asyncpg.Pool, settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Forgets now and then until the service stops."""
    log = logger("expiry")
    while not stop.is_set():
        try:
            if rows := await expire(pool, settings, datetime.fromtimestamp(now_ms() / 1000, UTC)):
                log.info(LogEvent.ROWS_EXPIRED, rows=rows)
        except (asyncpg.PostgresError, *AWAY) as error:
            log.warning(LogEvent.EXPIRY_FAILED, reason=repr(error))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY_SECONDS)

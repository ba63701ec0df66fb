"""Owns a gateway's life: connect, migrate, read the topics, serve, and end in the opposite order."""

import asyncio
import gc
from pathlib import Path

import asyncpg

from penstock.contracts.topics import CAPACITY_REPORTED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.clock import now_ms
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.broadcast import BroadcastReader
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.postgres import connect_pool, migrate
from penstock.runtime.service import Context
from services.gateway.acceptance import Acceptance
from services.gateway.app import build
from services.gateway.definitions import Definitions
from services.gateway.engines import Engines
from services.gateway.gateway import Gateway
from services.gateway.lag import LagProbe, ask
from services.gateway.live import Live
from services.gateway.news import News
from services.gateway.pieces import Pieces
from services.gateway.read_models import store
from services.gateway.read_models.audit import audit_for_ever
from services.gateway.read_models.costs import Ledger
from services.gateway.read_models.expiry import expire_for_ever
from services.gateway.read_models.reader import Reader
from services.gateway.read_models.settling import settle_for_ever
from services.gateway.read_models.subscribers import Subscribers
from services.gateway.server import bind, serve
from services.gateway.settings import GatewaySettings
from services.gateway.telemetry import Instruments, LogEvent

MIGRATIONS = Path(__file__).parent / "migrations"
WRITERS_MAX = 2
"""Connections that write: the batches, and what ended runs come to."""
DELIVERY_SECONDS = 20.0
"""A client waits for its 202; past this it is told to send again."""


def _calm_the_collector() -> None:
    """What exists now stays; a batch makes many objects that all go at once, which no collection needs to find."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _connected(context: Context[GatewaySettings]) -> tuple[asyncpg.Pool, asyncpg.Pool]:
    """Connections that read, and those that write, to tables that are there."""
    url, stop = context.settings.postgres_url, context.stop
    reading = await connect_pool(url, connections_max=context.settings.postgres_connections_max, stop=stop)
    await migrate(reading, MIGRATIONS)
    writing = await connect_pool(url, connections_max=WRITERS_MAX, server_settings=store.SESSION, stop=stop)
    return reading, writing


async def main(context: Context[GatewaySettings]) -> None:
    """Runs until stopped."""
    settings = context.settings
    listener = bind(settings.gateway_host, settings.gateway_port)
    host, port = listener.getsockname()[:2]
    for part in ("postgres", "kafka"):
        context.health.set_ready(part, False, "connecting")
    pool, writing = await _connected(context)
    context.health.set_ready("postgres", True)
    broker = KafkaBroker(settings.kafka_bootstrap_servers, client_id=f"gateway-{settings.instance}")
    at_the_door = Publisher(Service.GATEWAY, broker, instruments=context.instruments, delivery_seconds=DELIVERY_SECONDS)
    dead_letters = Publisher(Service.GATEWAY, broker)
    await at_the_door.start()
    await dead_letters.start()
    instruments = Instruments(context.metrics)
    aside = Aside(dead_letters.send, Service.GATEWAY, "capacity", now_ms())
    live, reader, ledger, engines = Live(), Reader(pool), Ledger(pool), Engines(now_ms, aside)
    context.metrics.register(engines)
    subscribers = Subscribers(settings, writing, dead_letters.send, live.written, instruments)
    app = build(
        Gateway(
            settings=settings,
            reader=reader,
            ledger=ledger,
            acceptance=Acceptance(pool, at_the_door, now_ms, settings.instance),
            blobs=Blobs(settings.blob_url),
            definitions=Definitions(reader),
            live=live,
            pieces=Pieces(broker, context.stop),
            lag=LagProbe(lambda: ask(settings.kafka_bootstrap_servers), now_ms),
            engines=engines,
            asyncapi=subscribers.asyncapi,
            instruments=instruments,
            stop=context.stop,
        )
    )
    serving = asyncio.create_task(serve(app, listener, context.stop, settings.drain_seconds))
    context.log.info(LogEvent.LISTENING, url=f"http://{host}:{port}")
    _calm_the_collector()
    expiring = asyncio.create_task(expire_for_ever(pool, settings, context.stop))
    settling = asyncio.create_task(settle_for_ever(writing, context.stop))
    auditing = asyncio.create_task(audit_for_ever(ledger, instruments, context.stop))
    reports = BroadcastReader(broker, CAPACITY_REPORTED.name, engines.take)
    hearing = asyncio.create_task(reports.run(context.stop))
    listening = asyncio.create_task(News(settings.postgres_url, settings.instance, live).listen(context.stop))
    await subscribers.start(context.stop)
    context.health.set_ready("kafka", True)
    try:
        await serving
    finally:
        context.stop.set()
        await subscribers.stop()
        await at_the_door.stop()
        await dead_letters.stop()
        await expiring
        await asyncio.gather(settling, auditing)
        await asyncio.gather(listening, hearing)
        await writing.close()
        await pool.close()

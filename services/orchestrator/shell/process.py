"""Owns the orchestrator's process: wires store, publisher, definitions and owner, and takes them down in order."""

import asyncio
from contextlib import AsyncExitStack
from importlib.resources import files

from penstock.contracts import topics
from penstock.contracts.topics import Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.clock import now_ms
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.broadcast import BroadcastReader
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.owned import OwnedBatchConsumer
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.postgres import connect_pool, migrate
from penstock.runtime.service import Context
from services.orchestrator.core.compiler import as_budget
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.shell.capacity import CapacityInbox
from services.orchestrator.shell.definitions import Definitions
from services.orchestrator.shell.definitions_inbox import DefinitionsInbox
from services.orchestrator.shell.owner import GROUP_ID, HOME_TOPICS, Limits, Owner
from services.orchestrator.shell.postgres_store import PostgresStore
from services.orchestrator.shell.retention import remove_finished_runs, remove_old_blobs
from services.orchestrator.shell.store import Store
from services.orchestrator.shell.telemetry import OrchestratorInstruments
from services.orchestrator.shell.tenants import with_bursts

HOUR_MS = 3_600_000
SESSION = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Planning the batch's statement anew costs more than running it, and its plan never depends on its arguments.

The plan is made once, when the tables may be empty: left to itself it would read them whole, batch after batch, until
somebody analyses them. Everything here is found by its key.
"""
DEFINITIONS_TOPIC, ALIASES_TOPIC = topics.WORKFLOW_PUBLISHED.name, topics.WORKFLOW_ALIASED.name
CAPACITY_TOPIC = topics.CAPACITY_REPORTED.name


async def orchestrate(context: Context[OrchestratorSettings]) -> None:
    """Run until `context.stop` is set."""
    settings, stop, health = context.settings, context.stop, context.health
    health.set_ready("definitions", False, "not read yet")
    health.set_ready("aliases", False, "not read yet")
    async with AsyncExitStack() as stack:
        pool = await connect_pool(
            settings.postgres_url,
            connections_max=settings.postgres_connections_max,
            server_settings=SESSION,
            stop=stop,
        )
        stack.push_async_callback(pool.close)
        await migrate(pool, files("services.orchestrator") / "migrations")
        store = PostgresStore(pool)
        broker = KafkaBroker(settings.kafka_bootstrap_servers, client_id=settings.instance)
        publisher = Publisher(Service.ORCHESTRATOR, broker, instruments=context.instruments)
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        definitions = Definitions(store, settings.deployment)
        await definitions.load()
        published = DefinitionsInbox(definitions.publish, store, publisher)
        reader = BroadcastReader(broker, DEFINITIONS_TOPIC, published.take)
        aliased = DefinitionsInbox(definitions.aliases.take, store, publisher)
        aliases = BroadcastReader(broker, ALIASES_TOPIC, aliased.take)
        definitions.catch_up = lambda: _caught_up(aliases, reader)
        # What was read for a decision is kept as a value; its bytes as well would be the same twice.
        blobs = Blobs(settings.blob_url, cache_bytes_max=0)
        owner = _owner(context, store, publisher, definitions, blobs)
        stack.push_async_callback(owner.close)
        consumer = OwnedBatchConsumer(
            Service.ORCHESTRATOR,
            HOME_TOPICS,
            GROUP_ID,
            owner,
            broker,
            records_max=settings.orchestrator_batch_records_max,
            drain_seconds=settings.drain_seconds,
            instruments=context.instruments,
            health=health,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(
                reader.run(stop, caught_up=lambda: health.set_ready("definitions", True)), name="definitions"
            )
            aside = Aside(publisher.send, Service.ORCHESTRATOR, "capacity", now_ms())
            rooms = BroadcastReader(broker, CAPACITY_TOPIC, CapacityInbox(owner.hear, aside).take)
            # Nobody waits for it: without a report routes are chosen as if engines said nothing.
            group.create_task(rooms.run(stop), name="capacity")
            group.create_task(aliases.run(stop, caught_up=lambda: health.set_ready("aliases", True)), name="aliases")
            group.create_task(
                remove_finished_runs(store, now_ms, int(settings.orchestrator_retention_hours * HOUR_MS), stop),
                name="retention",
            )
            retention_ms = int(settings.orchestrator_blob_retention_hours * HOUR_MS)
            group.create_task(remove_old_blobs(blobs, now_ms, retention_ms, stop), name="blobs")
            await consumer.run(stop)


async def _caught_up(*readers: BroadcastReader) -> None:
    """Wait until everything said so far on these topics has been handled."""
    for reader in readers:
        await reader.catch_up()


def _owner(
    context: Context[OrchestratorSettings], store: Store, publisher: Publisher, definitions: Definitions, blobs: Blobs
) -> Owner:
    settings = context.settings
    limits = Limits(
        runs_cached_max=settings.orchestrator_runs_cached_max,
        sends_max=settings.orchestrator_sends_max,
        homes=settings.home_partitions,
    )
    return Owner(
        store,
        publisher,
        definitions,
        now_ms,
        limits,
        tenants=frozenset(settings.orchestrator_tenants),
        budgets=with_bursts(
            {tenant: as_budget(caps) for tenant, caps in settings.orchestrator_tenant_budgets.items()},
            {tenant: as_budget(caps) for tenant, caps in settings.orchestrator_burst_budgets.items()},
        ),
        blobs=blobs,
        instruments=OrchestratorInstruments(context.metrics),
    )

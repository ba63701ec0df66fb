"""Runs inference: the engines of one pool, its lanes urgent first."""

import asyncio
from collections.abc import Sequence

from penstock.contracts.topics import INFERENCE_COMPLETED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.clock import now_ms
from penstock.runtime.executor import execute, publishing
from penstock.runtime.health import Health
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.service import Context, run_service
from penstock.runtime.work import Answers
from services.inference.accounts import Accounts
from services.inference.caller import ModelCaller
from services.inference.core import lanes
from services.inference.energy import counter
from services.inference.fleet import EngineEntry
from services.inference.images import Images
from services.inference.metering import EngineMeter
from services.inference.reporting import CapacityReporter
from services.inference.settings import InferenceSettings
from services.inference.station import Station, Stations
from services.inference.streaming import Streaming
from services.inference.telemetry import InferenceInstruments
from services.inference.tickets import Reader
from services.inference.waiting import EngineQueue
from services.inference.watch import PART, EngineWatch, first_up


async def main(context: Context[InferenceSettings]) -> None:
    """Consumes from the moment that the engine answers until stopped."""
    settings = context.settings
    fleet = settings.fleet()
    stations = Stations([_station(settings, entry, context.health, alone=len(fleet) == 1) for entry in fleet])
    answers = Answers(context.service, INFERENCE_COMPLETED, "inference", settings.instance)
    instruments = InferenceInstruments(context.metrics, settings.inference_pool, stations)
    watching = [asyncio.create_task(station.watch.run()) for station in stations]
    try:
        async with publishing(context) as publisher:
            reporters = [
                CapacityReporter(station, publisher, now_ms, pool=settings.inference_pool, instance=settings.instance)
                for station in stations
            ]
            reporting = [asyncio.create_task(reporter.run(context.stop)) for reporter in reporters]
            accounts = Accounts(stations, settings.inference_pool, publisher.send, settings.inference_account_seconds)
            reporting.append(asyncio.create_task(accounts.run()))
            cancellations, streaming = Cancellations(), Streaming(publisher, settings.pace(), now_ms)
            large = LargeValues(Blobs(settings.blob_url), now_ms)
            caller = ModelCaller(
                stations,
                answers,
                settings.limits(),
                now_ms,
                cancellations,
                Images(large.blobs.read),
                streaming=streaming,
                large=large,
                instruments=instruments,
            )
            try:
                await first_up([station.watch for station in stations], context.stop)
                limits = settings.limits()
                reader = Reader(stations, limits.pool, limits.home_partitions)
                group, clock = f"penstock.inference.{limits.pool}", asyncio.get_running_loop().time
                queue = EngineQueue(stations, reader, cancellations, now_ms, clock)
                await execute(
                    context,
                    {group: lanes.topics(limits.pool)},
                    caller.handle,
                    answers,
                    in_flight_max=lanes.handled_max(stations.concurrency),
                    queues={group: queue},
                    cancellations=cancellations,
                    publisher=publisher,
                )
            finally:
                await _cancel(reporting)
                await accounts.close()
    finally:
        await _cancel(watching)
        for station in stations:
            await station.engine.close()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _station(settings: InferenceSettings, entry: EngineEntry, health: Health, *, alone: bool) -> Station:
    engine = settings.engine_of(entry)
    return Station(
        engine,
        EngineWatch(engine, health, part=PART if alone else f"{PART} {entry.name}"),
        EngineMeter(engine.name, entry.billed(settings.price_list()), energy=counter(entry.gpu_devices)),
        frozenset(entry.models),
        entry.places,
        entry.places_at_start,
    )


if __name__ == "__main__":
    run_service(Service.INFERENCE, InferenceSettings, main)

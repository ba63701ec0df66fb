"""Owns the life of a service's process: settings, loop, logs, signals, health, exit code."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

import uvloop
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from penstock.contracts.topics import Service
from penstock.runtime.errors import SettingsError
from penstock.runtime.health import Health, HealthServer
from penstock.runtime.settings import ServiceSettings, load
from penstock.runtime.telemetry import Instruments, Log, LogEvent, configure_logging, logger

EXIT_FAILED = 1
EXIT_SETTINGS = 2
EXIT_INTERRUPTED = 130
STOP_GRACE_SECONDS = 10.0
"""What `main` may take on top of the drain budget to commit, leave the group and close."""

GC_THRESHOLDS = (50_000, 20, 100)
"""Runs and records in flight live long without cycles; the default thresholds walk them for a quarter of the CPU."""

S = TypeVar("S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class Context(Generic[S]):
    """What a service's `main` is given."""

    settings: S
    service: Service
    stop: asyncio.Event
    """Set on SIGTERM or Ctrl-C: take no more work, finish what is in flight, return."""
    health: Health
    metrics: CollectorRegistry
    instruments: Instruments
    log: Log


Main = Callable[[Context[S]], Awaitable[None]]


def run_service(service: Service, settings_class: type[S], main: Main[S]) -> NoReturn:
    """Run `main` until it returns. Exit codes: 0 ended well, 1 failed, 2 bad settings, 130 interrupted twice."""
    sys.exit(run(service, settings_class, main, os.environ))


def run(service: Service, settings_class: type[S], main: Main[S], environ: Mapping[str, str]) -> int:
    """The same with the environment given and the exit code returned."""
    try:
        settings = load(settings_class, environ)
    except SettingsError as error:
        sys.stderr.write(f"{service}: cannot start\n{error}\n")
        return EXIT_SETTINGS
    configure_logging(settings.log_format, settings.log_level, service=str(service), instance=settings.instance)
    log = logger("service")
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_live(service, settings, main, log))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _live(service: Service, settings: S, main: Main[S], log: Log) -> int:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    loop = asyncio.get_running_loop()
    health = Health()
    health.watch(loop)
    server = HealthServer(health, registry, settings.health_host, settings.health_port)
    context = Context(settings, service, asyncio.Event(), health, registry, Instruments(registry), log)
    _stop_on_signals(loop, context.stop, log)
    server.start()
    log.info(LogEvent.SERVICE_STARTED, health_url=f"http://{settings.health_host}:{server.port}", pid=os.getpid())
    try:
        return await _until_stopped(context, main)
    finally:
        server.stop()


async def _until_stopped(context: Context[S], main: Main[S]) -> int:
    log = context.log
    work = asyncio.ensure_future(main(context))
    stopping = asyncio.ensure_future(context.stop.wait())
    await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not work.done():
        context.health.set_ready("service", False, "stopping")
        budget = context.settings.drain_seconds + STOP_GRACE_SECONDS
        await asyncio.wait((work,), timeout=budget)
        if not work.done():
            log.error(LogEvent.DRAIN_EXCEEDED, budget_seconds=budget)
            work.cancel()
            await asyncio.wait((work,), timeout=STOP_GRACE_SECONDS)
            return EXIT_FAILED
    if work.cancelled():
        log.error(LogEvent.SERVICE_FAILED, reason="cancelled")
        return EXIT_FAILED
    if (error := work.exception()) is not None:
        log.error(LogEvent.SERVICE_FAILED, exc_info=error)
        return EXIT_FAILED
    log.info(LogEvent.SERVICE_STOPPED)
    return 0


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, log: Log) -> None:
    def asked(name: str) -> None:
        if stop.is_set() and name == "SIGINT":
            os._exit(EXIT_INTERRUPTED)  # the second Ctrl-C: the person does not want to wait
        log.info(LogEvent.SERVICE_STOPPING, signal=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number.name)

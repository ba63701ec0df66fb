"""Owns the supervising process: everything started in order, kept running, written down, and stopped together."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from services.local import status as status_of
from services.local.model import model_part, model_url
from services.local.options import Options
from services.local.part import Part, PartChange, PartFailedError
from services.local.postgres import DATABASES
from services.local.report import Report
from services.local.services import add_services, gateway_url
from services.local.stack import LocalStack
from services.local.status import PartStatus, StackState, Status

LOG_CHECK_SECONDS = 60.0
LOG_BYTES_MAX = 32 * 1024 * 1024
LOG_BYTES_KEPT = 1024 * 1024
FIRST_START_SECONDS = 180.0


def compose(data: Path, options: Options, on_change: Callable[[PartChange], None]) -> LocalStack:
    """A stack with all its parts, none of them started."""
    stack = LocalStack(data, on_change, options.deployment)
    if options.model == "real":
        stack.add(model_part(stack.ports.port("model")))
    add_services(stack, options)
    return stack


class Supervisor:
    """One data folder's stack, from its start to its stop."""

    def __init__(self, data: Path, options: Options, report: Report) -> None:
        self._options = options
        self._report = report
        self._state: StackState = "starting"
        self._stop_asked = asyncio.Event()
        self._stack = compose(data, options, self._changed)

    def ask_stop(self) -> None:
        """Stop in an orderly way; asked again, at once."""
        if self._stop_asked.is_set():
            os._exit(130)  # the keeper ends what is left
        self._stop_asked.set()

    async def run(self) -> None:
        """Start everything, keep it running until asked to stop, stop everything. Raises PartFailedError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.ask_stop)
        try:
            await self._start()
            if not self._stop_asked.is_set():
                self._enter("running")
                bounding = asyncio.create_task(_bound_logs(self._stack.logs))
                await self._stop_asked.wait()
                bounding.cancel()
        finally:
            self._enter("stopping")
            await self._stack.stop_parts()
            self._enter("stopped")
            self._stack.close()

    async def _start(self) -> None:
        starting = asyncio.create_task(self._stack.start(ready_seconds=FIRST_START_SECONDS))
        stopping = asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        try:
            starting.result()
        except* PartFailedError as group:
            raise group.exceptions[0] from None

    def _enter(self, state: StackState) -> None:
        self._state = state
        self._publish(None)

    def _changed(self, change: PartChange) -> None:
        self._publish(change)

    def _publish(self, change: PartChange | None) -> None:
        status = self.status()
        status_of.write(self._stack.data, status)
        self._report(status, change)

    def status(self) -> Status:
        """Everything as it stands."""
        stack = self._stack
        with_gateway = self._options.counts.gateway > 0
        urls = {name: stack.postgres_url(name) for name in DATABASES}
        return Status(
            state=self._state,
            data=str(stack.data),
            supervisor_pid=os.getpid() if self._state != "stopped" else None,
            bootstrap_servers=stack.bootstrap_servers,
            gateway_url=gateway_url(stack, self._options) if with_gateway else None,
            postgres_url=urls.get("penstock_gateway"),
            postgres_urls=urls,
            model_url=model_url(stack.ports.port("model")) if "model" in stack.parts else None,
            model=self._options.model,
            task_modules=self._options.task_modules,
            parts={name: _part_status(part) for name, part in stack.parts.items()},
        )


def _part_status(part: Part) -> PartStatus:
    return PartStatus(
        state=part.state,
        pid=part.pid,
        restarts=part.restarts,
        detail=part.detail,
        ports=part.spec.ports,
        ready_after_seconds=part.ready_after_seconds,
        log=str(part.log),
    )


async def _bound_logs(folder: Path) -> None:
    """Cut logs that grew too long. The parts append to them, so that a shorter file is written on from its end."""
    while True:
        await asyncio.sleep(LOG_CHECK_SECONDS)
        _cut_long_logs(folder)


def _cut_long_logs(folder: Path) -> None:
    for log in folder.glob("*.log"):
        size = log.stat().st_size
        if size <= LOG_BYTES_MAX:
            continue
        with log.open("rb") as file:
            file.seek(size - LOG_BYTES_KEPT)
            log.with_suffix(".log.1").write_bytes(file.read())
        os.truncate(log, 0)

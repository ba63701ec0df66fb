"""Owns the life of one part: waiting, starting, ready, ended, started again with back-off."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from services.local.process import Command, Keeper, PartProcess, tail

BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 15.0
STEADY_SECONDS = 30.0
READY_SECONDS = 120.0
STARTS_WITHOUT_READY_MAX = 4


Note = Callable[[str], None]
"""Says what a preparation is busy with."""


class PartState(StrEnum):
    """Where a part is in its life."""

    WAITING = "waiting"
    """For the parts that it needs."""
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It ended by itself and starts again after a pause."""
    PAUSED = "paused"
    """Its process was stopped with SIGSTOP by a test."""
    STOPPED = "stopped"


class PartFailedError(RuntimeError):
    """A part did not become ready in time; the message ends with its last log lines."""


class PartUnusableError(RuntimeError):
    """A part runs and can never become ready; raised by what asks whether it is."""


@dataclass(frozen=True, slots=True)
class PartSpec:
    """What a part is. `prepare` runs before every start; `ready` returns when the part can serve."""

    name: str
    prepare: Callable[[Note], Awaitable[Command]]
    ready: Callable[[], Awaitable[None]]
    needs: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 30.0
    ports: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartChange:
    """Something happened to a part; `lines` are the last of its log when it ended by itself."""

    part: str
    state: PartState
    detail: str
    lines: tuple[str, ...] = ()


class Part:
    """One part and the task that keeps it running."""

    def __init__(self, spec: PartSpec, log: Path, keeper: Keeper, on_change: Callable[[PartChange], None]) -> None:
        self.spec = spec
        self.log = log
        self.state = PartState.STOPPED
        self.detail = ""
        self.restarts = 0
        self.ready_after_seconds: float | None = None
        self._keeper = keeper
        self._on_change = on_change
        self._process: PartProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._hopeless = asyncio.Event()
        self._log_from = 0
        self._stop_asked = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process and self._process.alive else None

    def waiting(self) -> None:
        """Note that it waits for the parts it needs."""
        self._change(PartState.WAITING, ", ".join(self.spec.needs))

    async def start(self, ready_seconds: float = READY_SECONDS) -> None:
        """Start it if it does not run, and wait until it is ready."""
        if self._task is None or self._task.done():
            self._stop_asked.clear()
            self._hopeless.clear()
            self.ready_after_seconds = None
            self._task = asyncio.create_task(self._keep_running(), name=f"part-{self.spec.name}")
        await self.until_ready(ready_seconds)

    async def until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it is ready; raises PartFailedError with its last log lines."""
        outcomes = [asyncio.create_task(event.wait()) for event in (self._ready, self._hopeless)]
        try:
            await asyncio.wait(outcomes, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for outcome in outcomes:
                outcome.cancel()
        if not self._ready.is_set():
            lines = "\n  ".join(self.last_lines())
            raise PartFailedError(f"{self.spec.name} did not become ready: {self.detail}; {self.log}:\n  {lines}")

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of its log since its latest start."""
        return tail(self.log, self._log_from)

    async def stop(self, number: signal.Signals | None = None) -> None:
        """End it, in an orderly way unless told otherwise, and leave it ended."""
        self._stop_asked.set()
        if self._task is None:
            return
        if self._process is not None and self._process.alive:
            await self._process.stop(number or self.spec.stop_signal, self.spec.stop_seconds)
        else:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._change(PartState.STOPPED, "")

    async def changed(self) -> None:
        """Wait for the next change of its state."""
        await self._changed.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal and let what happens happen: a part that dies of it is started again."""
        if self._process is None or not self._process.alive:
            raise ProcessLookupError(f"{self.spec.name} does not run")
        self._process.send(number)

    def pause(self) -> None:
        """Freeze it: it holds its connections and answers nothing."""
        self.send(signal.SIGSTOP)
        self._change(PartState.PAUSED, "SIGSTOP")

    def resume(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)
        self._change(PartState.READY if self._ready.is_set() else PartState.STARTING, "")

    async def _keep_running(self) -> None:
        pause = BACKOFF_FIRST_SECONDS
        starts = 0
        while not self._stop_asked.is_set():
            began = time.monotonic()
            starts += 1
            self._log_from = self.log.stat().st_size if self.log.exists() else 0
            self._change(PartState.STARTING, "")
            reason = await self._run_once(began)
            self._ready.clear()
            if self._stop_asked.is_set():
                return
            pause = BACKOFF_FIRST_SECONDS if time.monotonic() - began > STEADY_SECONDS else pause
            self.restarts += 1
            self._change(PartState.RESTARTING, f"{reason}; again in {pause:.1f} s", self.last_lines())
            if starts >= STARTS_WITHOUT_READY_MAX and self.ready_after_seconds is None:
                self._hopeless.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF_MAX_SECONDS)

    async def _run_once(self, began: float) -> str:
        """Run it from its preparation to its end; says how it ended."""
        try:
            command = await self.spec.prepare(self._note)
            self._process = PartProcess(command, self.log, self._keeper)
        except (OSError, RuntimeError) as error:
            return f"could not start: {error}"
        watch = asyncio.create_task(self._watch(began), name=f"ready-{self.spec.name}")
        try:
            return _ending(await self._process.wait())
        except asyncio.CancelledError:
            await self._process.stop(signal.SIGKILL, self.spec.stop_seconds)
            raise
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, began: float) -> None:
        try:
            await self.spec.ready()
        except PartUnusableError as error:
            self._change(PartState.STARTING, str(error))
            self._hopeless.set()
            return
        self.ready_after_seconds = time.monotonic() - began
        self._ready.set()
        self._change(PartState.READY, f"after {self.ready_after_seconds:.1f} s")

    def _note(self, detail: str) -> None:
        self._change(PartState.STARTING, detail)

    def _change(self, state: PartState, detail: str, lines: tuple[str, ...] = ()) -> None:
        self.state = state
        self.detail = detail
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change(PartChange(self.spec.name, state, detail, lines))


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"

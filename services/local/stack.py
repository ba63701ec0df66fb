"""Owns the composition: which parts a local stack has, the order of their start, and what can be done to them."""

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from penstock.contracts.topics import Deployment
from penstock.runtime.errors import PenstockError
from penstock.runtime.kafka.admin import ensure_topics
from services.local.kafka import archive_start, kafka_part, until_groups_served
from services.local.kafka_cache import archive_file
from services.local.part import READY_SECONDS, Part, PartChange, PartSpec, PartState, PartUnusableError
from services.local.ports import LOOPBACK, Ports
from services.local.postgres import Postgres
from services.local.process import Keeper
from services.local.status import AlreadyRunningError


def _ignore(_: PartChange) -> None:
    return None


class LocalStack:
    """Real Kafka and real Postgres in one data folder, and whatever parts are added to them.

    Use it from the thread that lives as long as the stack: Linux kills a part when the thread that started it ends.
    """

    def __init__(
        self,
        data: Path,
        on_change: Callable[[PartChange], None] = _ignore,
        deployment: Deployment | None = None,
    ) -> None:
        self.data = data.resolve()
        self.logs = self.data / "logs"
        self.parts: dict[str, Part] = {}
        self._on_change = on_change
        self._deployment = deployment
        self._keeper = Keeper()
        self._lock: IO[str] | None = None
        self._archiving: asyncio.Task[None] | None = None
        self.logs.mkdir(parents=True, exist_ok=True)
        # Postgres's user passes through when we are root; what is private lies in private folders of its own.
        self.data.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.logs.chmod(0o700)
        self._hold()
        self.ports = Ports(self.data / "ports.json")
        self.postgres = Postgres(self.data / "postgres", self.ports.port("postgres"))
        kafka_port = self.ports.port("kafka")
        self.bootstrap_servers = f"{LOOPBACK}:{kafka_port}"
        self.add(kafka_part(self.data / "kafka", kafka_port, self.ports.port("kafka_controller"), self._serve_topics))
        self.add(self.postgres.part())

    def add(self, spec: PartSpec) -> Part:
        """Add a part; it runs when it is started."""
        part = Part(spec, self.logs / f"{spec.name}.log", self._keeper, self._on_change)
        self.parts[spec.name] = part
        return part

    @property
    def blob_url(self) -> str:
        """Where the services keep values that are too large to travel."""
        return (self.data / "blobs").as_uri()

    def postgres_url(self, database: str) -> str:
        """How to connect to one of the databases."""
        return self.postgres.url(database)

    async def start(self, names: Sequence[str] | None = None, ready_seconds: float = READY_SECONDS) -> None:
        """Start the named parts (all by default), each when those it needs are ready; return when all are."""
        self._keeper.start()
        chosen = [self.parts[name] for name in names] if names is not None else list(self.parts.values())
        async with asyncio.TaskGroup() as group:
            for part in chosen:
                group.create_task(self._start_in_turn(part, ready_seconds))
        if self._archiving is None and not archive_file().exists():
            log = self.logs / "kafka-archive.log"
            self._archiving = asyncio.create_task(archive_start(self.ports, log, self._keeper))

    async def stop(self) -> None:
        """End every part and give the data folder back."""
        await self.stop_parts()
        self.close()

    def close(self) -> None:
        """Give the data folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def stop_parts(self) -> None:
        """End every part, those that need others first."""
        if self._archiving is not None:
            self._archiving.cancel()
            await asyncio.gather(self._archiving, return_exceptions=True)
        waves: list[list[Part]] = []
        left = dict(self.parts)
        while left:
            needed = {name for part in left.values() for name in part.spec.needs}
            wave = [part for name, part in left.items() if name not in needed]
            waves.append(wave or list(left.values()))
            left = {name: part for name, part in left.items() if part not in waves[-1]}
        for wave in waves:
            await asyncio.gather(*(part.stop() for part in wave))
        self._keeper.stop()

    async def stop_part(self, name: str) -> None:
        """End one part in an orderly way and leave it ended."""
        await self.parts[name].stop()

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill one part and leave it ended."""
        await self.parts[name].stop(number)

    async def restart(self, name: str, ready_seconds: float = READY_SECONDS) -> None:
        """End one part in an orderly way if it runs, start it, and wait until it is ready."""
        await self.parts[name].stop()
        await self.parts[name].start(ready_seconds)

    def pause(self, name: str) -> None:
        """Freeze one part: it keeps its connections and answers nothing."""
        self.parts[name].pause()

    def resume(self, name: str) -> None:
        """Let a frozen part go on."""
        self.parts[name].resume()

    async def _start_in_turn(self, part: Part, ready_seconds: float) -> None:
        needs = [self.parts[name] for name in part.spec.needs if name in self.parts]
        if any(needed.state is not PartState.READY for needed in needs):
            part.waiting()
        for needed in needs:
            await needed.until_ready(ready_seconds)
        await part.start(ready_seconds)

    async def _serve_topics(self) -> None:
        if self._deployment is not None:
            try:
                await ensure_topics(self.bootstrap_servers, self._deployment)
            except PenstockError as error:
                raise PartUnusableError(str(error)) from error
            await until_groups_served(self.bootstrap_servers)

    def _hold(self) -> None:
        self._lock = (self.data / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise AlreadyRunningError(f"another supervisor runs the stack in {self.data}") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

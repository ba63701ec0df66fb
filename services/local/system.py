"""Owns a whole system for tests: every service with chosen counts, and the faults that can be done to each part."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from penstock.contracts.topics import Deployment, Service
from services.local.fixtures import temporary_folder
from services.local.options import Counts, Model, Options
from services.local.part import Part
from services.local.services import add_service, gateway_url, part_name
from services.local.stack import LocalStack
from services.local.supervisor import compose

READY_SECONDS = 120.0


class System:
    """Kafka, Postgres and all services as real processes. A part that dies by itself is started again."""

    def __init__(self, data: Path, options: Options) -> None:
        self.options = options
        self.stack: LocalStack = compose(data, options, lambda _: None)
        self.bootstrap_servers = self.stack.bootstrap_servers
        self.gateway_url = gateway_url(self.stack, options)

    @property
    def deployment(self) -> Deployment:
        """Which topics there are."""
        return self.options.deployment

    def postgres_url(self, service: Service | str) -> str:
        """The database of a service."""
        return self.stack.postgres_url(f"penstock_{Service(service).value}")

    async def start(self, ready_seconds: float = READY_SECONDS) -> Self:
        """Start everything; return when every service's /readyz says 200."""
        await self.stack.start(ready_seconds=ready_seconds)
        return self

    async def stop(self) -> None:
        """Stop everything."""
        await self.stack.stop()

    def part(self, service: Service | str, index: int = 0) -> Part:
        """One process of a service."""
        return self.stack.parts[part_name(Service(service), index)]

    def pid(self, service: Service | str, index: int = 0) -> int | None:
        """Its process id while it runs."""
        return self.part(service, index).pid

    def health_url(self, service: Service | str, index: int = 0) -> str:
        """Where it answers /healthz, /readyz and /metrics."""
        return f"http://127.0.0.1:{self.part(service, index).spec.ports['health_port']}"

    def logs(self, service: Service | str, index: int = 0) -> str:
        """All it has said."""
        return self.part(service, index).log.read_text(errors="replace")

    async def kill(self, service: Service | str, index: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with a signal (SIGTERM: it drains first) and leave it ended."""
        await self.part(service, index).stop(number)

    def send(self, service: Service | str, index: int, number: signal.Signals) -> None:
        """Send a signal as somebody outside would: if the process dies of it, it is started again."""
        self.part(service, index).send(number)

    async def crash(self, service: Service | str, index: int = 0) -> Part:
        """Kill it as the kernel would, and return when its supervisor has noticed and starts it again."""
        part = self.part(service, index)
        restarts = part.restarts
        part.send(signal.SIGKILL)
        while part.restarts == restarts:
            await part.changed()
        return part

    def pause(self, service: Service | str, index: int = 0) -> None:
        """Freeze it: it holds its connections and its group membership, and does nothing."""
        self.part(service, index).pause()

    def resume(self, service: Service | str, index: int = 0) -> None:
        """Let it go on."""
        self.part(service, index).resume()

    async def restart(self, service: Service | str, index: int = 0, number: signal.Signals = signal.SIGTERM) -> None:
        """End it if it runs, start it, and wait until it is ready."""
        part = self.part(service, index)
        await part.stop(number)
        await part.start(READY_SECONDS)

    async def add(self, service: Service | str) -> int:
        """Start one more process of a service; gives its index."""
        chosen = Service(service)
        index = sum(name.startswith(f"{chosen.value}-") for name in self.stack.parts)
        add_service(self.stack, self.options, chosen, index)
        await self.part(chosen, index).start(READY_SECONDS)
        return index

    async def stop_kafka(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the broker and leave it ended."""
        await self.stack.parts["kafka"].stop(number)

    async def start_kafka(self) -> None:
        """Start it again, on the same port with the same data."""
        await self.stack.parts["kafka"].start(READY_SECONDS)

    async def stop_postgres(self, number: signal.Signals = signal.SIGINT) -> None:
        """End the server and leave it ended; SIGQUIT is its own crash."""
        await self.stack.parts["postgres"].stop(number)

    async def start_postgres(self) -> None:
        """Start it again, on the same port with the same data."""
        await self.stack.parts["postgres"].start(READY_SECONDS)


class Systems:
    """Starts systems and stops all of them in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[System] = []

    async def __call__(
        self,
        *,
        orchestrator: int = 1,
        inference: int = 1,
        tool_executor: int = 1,
        worker: int = 1,
        gateway: int = 1,
        model: Model = "simulated",
        tasks: Sequence[str] = (),
        tools: Path | None = None,
        environment: Mapping[str, str] | None = None,
        service_environment: Mapping[str, Mapping[str, str]] | None = None,
        ready_seconds: float = READY_SECONDS,
        **options: object,
    ) -> System:
        """Start a system: processes per service, modules with tasks, MCP servers, PENSTOCK_… variables.

        `options` are further fields of `Options`: pools, queues, home_partitions, work_partitions, …
        """
        counts = Counts(
            orchestrator=orchestrator,
            inference=inference,
            tool_executor=tool_executor,
            worker=worker,
            gateway=gateway,
        )
        chosen = Options.model_validate(
            {
                "model": model,
                "counts": counts,
                "task_modules": tuple(tasks),
                "tool_servers": tools,
                "environment": environment or {},
                "service_environment": service_environment or {},
                **options,
            }
        )
        system = System(self._folder / f"system-{len(self._started)}", chosen)
        self._started.append(system)
        return await system.start(ready_seconds)

    async def stop(self) -> None:
        """Stop all that were started."""
        await asyncio.gather(*(system.stop() for system in self._started))


@asynccontextmanager
async def systems() -> AsyncIterator[Systems]:
    """A factory of systems; each has a broker and a server of its own, all are gone afterwards."""
    async with temporary_folder() as folder:
        factory = Systems(folder)
        try:
            yield factory
        finally:
            await factory.stop()

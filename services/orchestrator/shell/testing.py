"""Owns the world that the shell's tests live in: a store, a wire whose acknowledgements the test gives, a clock."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from penstock.contracts import topics
from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import Budget, TaskRequested
from penstock.contracts.topics import Deployment
from penstock.runtime.blobs import Blobs
from penstock.testkit.builders import BEGINNING_MS, succeeded
from penstock.workflow.definition import Definition
from services.orchestrator.shell.definitions import Definitions
from services.orchestrator.shell.memory_store import MemoryStore
from services.orchestrator.shell.owner import Limits, Owner
from services.orchestrator.shell.store import Batch, OutboxRow, Slice, SliceClaim
from services.orchestrator.shell.telemetry import OrchestratorInstruments

REQUESTED, SIGNALLED = topics.RUN_REQUESTED.name, topics.RUN_SIGNALLED.name
TASK_COMPLETED, FINISHED = topics.TASK_COMPLETED.name, topics.RUN_FINISHED.name
TASK_REQUESTED = topics.TASK_REQUESTED.named(queue="default")


@dataclass
class Record:
    """A record as it is received."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = BEGINNING_MS


@dataclass
class Wire:
    """A publisher whose acknowledgements the test gives."""

    sent: list[Outgoing] = field(default_factory=list)
    open: list["asyncio.Future[None]"] = field(default_factory=list)
    acknowledges: bool = True

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        self.sent.extend(records)
        future = asyncio.get_running_loop().create_future()
        if self.acknowledges:
            future.set_result(None)
        else:
            self.open.append(future)
        return future

    def take(self, topic: str) -> list[Any]:
        """The bodies sent to a topic since the last take."""
        bodies = [orjson.loads(record.value) for record in self.sent if record.topic == topic]
        self.sent = [record for record in self.sent if record.topic != topic]
        return bodies

    def take_tasks(self) -> list[TaskRequested]:
        """The task requests sent since the last take."""
        return [TaskRequested.model_validate(body) for body in self.take(TASK_REQUESTED)]


class BreakingStore(MemoryStore):
    """A store that fails the next commits, before or after they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_before: list[Exception] = []
        self.fail_after: list[Exception] = []
        self.fail_claims: list[Exception] = []

    async def claim_slices(self, claims: Sequence[SliceClaim]) -> list[Slice]:
        if self.fail_claims:
            raise self.fail_claims.pop()
        return await super().claim_slices(claims)

    async def commit(self, batch: Batch) -> list[OutboxRow]:
        if self.fail_before:
            raise self.fail_before.pop()
        rows = await super().commit(batch)
        if self.fail_after:
            raise self.fail_after.pop()
        return rows


class World:
    """One owner of homes 0 and 1 on a store that others can share."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        tenants: frozenset[str] = frozenset(),
        budgets: Mapping[str, Budget] | None = None,
        homes: int = 1,
        deployment: Deployment | None = None,
        blobs: Blobs | None = None,
    ) -> None:
        self.store = store if store is not None else MemoryStore()
        self.wire = Wire()
        self.metrics = CollectorRegistry()
        self.now_ms = BEGINNING_MS
        self.definitions = Definitions(self.store, deployment or Deployment())
        self.owner = Owner(
            self.store,
            self.wire,
            self.definitions,
            lambda: self.now_ms,
            Limits(homes=homes),
            tenants=tenants,
            budgets=budgets,
            blobs=blobs,
            instruments=OrchestratorInstruments(self.metrics),
        )
        self._offsets: dict[tuple[str, int], itertools.count[int]] = {}

    async def own(self, *homes: int) -> dict[tuple[str, int], int]:
        """Take homes over."""
        return dict(await self.owner.take_over(frozenset(homes)))

    async def publish(self, definition: Definition, version: str = "1") -> None:
        """Publish a definition, without what has its default."""
        await self._publish(definition, version, definition.model_dump(mode="json", exclude_defaults=True))

    async def publish_in_full(self, definition: Definition, version: str) -> None:
        """Publish a definition with all defaults written out, as the gateway does."""
        await self._publish(definition, version, definition.model_dump(mode="json"))

    async def _publish(self, definition: Definition, version: str, content: dict[str, Any]) -> None:
        published_at = "2026-01-01T00:00:00Z"
        body = {"name": definition.name, "version": version, "definition": content, "published_at": published_at}
        await self.definitions.publish(Record("penstock.workflow.published.v1", 0, 0, orjson.dumps(body)))

    async def alias(self, alias: str, version: str, set_at: str = "2026-01-01T00:00:00Z", **fields: Any) -> None:
        """Move an alias of the workflow `example`."""
        body = {"name": "example", "alias": alias, "version": version, "set_at": set_at, **fields}
        await self.definitions.aliases.take(Record(topics.WORKFLOW_ALIASED.name, 0, 0, orjson.dumps(body)))

    def follow(self, other: "World") -> None:
        """Records go on where those of another world ended."""
        self._offsets = other._offsets

    def record(self, topic: str, value: Any, home: int = 0, **fields: Any) -> Record:
        """The next record of a partition."""
        offset = next(self._offsets.setdefault((topic, home), itertools.count()))
        raw = value if isinstance(value, bytes) else orjson.dumps(value)
        return Record(topic, home, offset, raw, **fields)

    def request(self, run_id: str = "order-1", home: int = 0, **fields: Any) -> Record:
        """A plain producer's request."""
        return self.record(REQUESTED, {"workflow": "example", "run_id": run_id, "input": {}} | fields, home)

    def answer(self, request: TaskRequested, output: Any = "done") -> Record:
        """A worker's answer, at the run's home."""
        return self.record(TASK_COMPLETED, succeeded(request, output).to_json(), request.home)

"""Owns what happens between a valid request and its 202: its run id, its idempotency, the broker's acknowledgement."""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

from penstock.contracts import ids
from penstock.contracts.envelope import Envelope, encode, rfc3339
from penstock.contracts.messages import (
    Message,
    RunRequested,
    RunSignalled,
    SignalKind,
    WorkflowAliased,
    WorkflowPublished,
)
from penstock.contracts.topics import RUN_REQUESTED, RUN_SIGNALLED, WORKFLOW_ALIASED, WORKFLOW_PUBLISHED, Topic
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.postgres import load_queries

_ACCEPT: Final[Mapping[str, str]] = load_queries(Path(__file__).parent / "sql" / "accept.sql")

SOURCE: Final = "penstock/gateway"


class ConflictError(Exception):
    """The idempotency key or the run id belongs to another request."""

    def __init__(self, what: str, run_id: str) -> None:
        super().__init__(what)
        self.what = what
        self.run_id = run_id


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks, and under which trace."""

    tenant: str
    traceparent: str | None = None


class Acceptance:
    """Publishes requests, signals and definitions; answers when the broker has them."""

    def __init__(self, pool: asyncpg.Pool, publisher: Publisher, clock_ms: Callable[[], int], instance: str) -> None:
        self._pool = pool
        self._publisher = publisher
        self._clock_ms = clock_ms
        self._source = f"{SOURCE}/{instance}/{clock_ms()}"
        self._numbers = itertools.count(1)

    async def run(self, request: RunRequested, origin: Origin, key: str | None) -> str:
        """Accepts a run; answers its id. Raises ConflictError, NotAcknowledged."""
        run_id = request.run_id or key or self._new_id()
        request = request.model_copy(update={"run_id": run_id, "tenant": origin.tenant})
        digest = hashlib.sha256(orjson.dumps(request.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).digest()
        now = datetime.fromtimestamp(self._clock_ms() / 1000, UTC)
        if key is not None:
            await self._claim(key, digest, origin.tenant, run_id, now)
        run_key = ids.run_key(origin.tenant, run_id)
        known = await self._one("accept_request", run_key, origin.tenant, run_id, request.workflow, digest, now)
        if known["body_sha256"] != digest:
            raise ConflictError("run_id", run_id)
        await self._publish(RUN_REQUESTED, request, origin, run_id, event=ids.event_id(run_key, "requested"))
        return run_id

    async def signal(self, kind: SignalKind, run_id: str, origin: Origin, reason: str) -> None:
        """Says something to a run."""
        message = RunSignalled(run_id=run_id, tenant=origin.tenant, kind=kind, reason=reason)
        await self._publish(RUN_SIGNALLED, message, origin, run_id, event=self._new_id())

    async def publish(self, message: WorkflowPublished, origin: Origin) -> None:
        """Publishes a definition."""
        key = f"{message.name}@{message.version}"
        await self._publish(WORKFLOW_PUBLISHED, message, origin, key, event=self._new_id())

    async def alias(self, message: WorkflowAliased, origin: Origin) -> None:
        """Sets an alias."""
        key = f"{message.name}@{message.alias}"
        await self._publish(WORKFLOW_ALIASED, message, origin, key, event=self._new_id())

    async def _claim(self, key: str, digest: bytes, tenant: str, run_id: str, now: datetime) -> None:
        known = await self._one("claim_key", tenant, key, digest, run_id, now)
        if known["body_sha256"] != digest:
            raise ConflictError("idempotency_key", known["run_id"])

    async def _one(self, statement: str, *arguments: Any) -> asyncpg.Record:
        while True:
            row = await self._pool.fetchrow(_ACCEPT[statement], *arguments)
            if row is not None:
                return row
            # Another request took the name between the two halves of the statement: its row is visible now.

    async def _publish(self, topic: Topic[Any], message: Message, origin: Origin, key: str, *, event: str) -> None:
        envelope = Envelope(
            id=event,
            type=topic.event_type,
            source=SOURCE,
            time=rfc3339(self._clock_ms()),
            tenant=origin.tenant,
            correlation_id=key,
            traceparent=origin.traceparent,
        )
        await self._publisher.send([encode(topic, message, envelope, key=key)])

    def _new_id(self) -> str:
        """Derived from this process's start and a count: unique without randomness."""
        return ids.run_id_from_event(self._source, str(next(self._numbers)))

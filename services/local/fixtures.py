"""Owns what tests get of the local stack: a shared Kafka and Postgres, with names of their own for every test."""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code

from penstock.contracts.topics import Deployment
from penstock.runtime.kafka.admin import ensure_topics
from services.local import probes
from services.local.stack import LocalStack

TOPIC_SECONDS = 10.0


class SharedStack:
    """Kafka and Postgres for one test session. Tests share them and stay apart by names."""

    def __init__(self, local: LocalStack) -> None:
        self.local = local
        self.bootstrap_servers = local.bootstrap_servers
        self._numbers = itertools.count(1)

    def new_name(self, prefix: str = "test") -> str:
        """A name that no other test of this session has; fit for topics, groups, pools, queues and databases."""
        return f"{prefix}_{next(self._numbers)}"

    async def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = self.new_name("database")
        await self.local.postgres.create_database(name)
        return self.local.postgres_url(name)

    async def new_topic(self, partitions: int = 4, prefix: str = "topic") -> str:
        """The name of a new, empty topic that can be written to at once."""
        name = self.new_name(prefix)
        await self.create_topics({name: partitions})
        return name

    async def create_topics(self, partitions: dict[str, int]) -> None:
        """Create topics by name and wait until the broker serves them."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        await admin.start()
        try:
            new = [NewTopic(name, count, 1) for name, count in partitions.items()]
            answer = await admin.create_topics(new)
            for topic, code, message in answer.topic_errors:
                if code:
                    raise for_code(code)(f"{topic}: {message}")

            async def visible() -> bool:
                return partitions.keys() <= set(await admin.list_topics())

            await asyncio.wait_for(probes.until(visible), TOPIC_SECONDS)
        finally:
            await admin.close()

    async def new_deployment(self) -> Deployment:
        """A deployment whose pool and queue, and so their topics, are new; the other topics are the session's."""
        deployment = Deployment(pools=(self.new_name("pool"),), queues=(self.new_name("queue"),))
        await ensure_topics(self.bootstrap_servers, deployment)
        return deployment


def _passable_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder


@asynccontextmanager
async def temporary_folder() -> AsyncIterator[Path]:
    """A folder that every user may pass through, so that Postgres can when we are root; removed afterwards."""
    folder = _passable_folder()
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


@asynccontextmanager
async def shared_stack() -> AsyncIterator[SharedStack]:
    """Kafka and Postgres in a folder of their own, on free ports, gone afterwards."""
    async with temporary_folder() as folder:
        local = LocalStack(folder)
        try:
            await local.start()
            yield SharedStack(local)
        finally:
            await local.stop()

"""Owns the tests of Kafka and Postgres as parts: they start, serve, come back and leave nothing."""

import os
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from penstock.runtime.kafka.admin import plan
from services.local.fixtures import SharedStack
from services.local.part import PartState
from services.local.stack import LocalStack
from services.local.status import AlreadyRunningError

pytestmark = pytest.mark.stack


async def test_new_names_are_served_at_once(stack: SharedStack) -> None:
    # given a new database, a new topic and a new deployment
    url = await stack.new_database()
    topic = await stack.new_topic(partitions=3)
    deployment = await stack.new_deployment()

    # when the broker and the server are asked
    connection = await asyncpg.connect(url)
    version = await connection.fetchval("SHOW server_version")
    await connection.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap_servers)
    await admin.start()
    described = {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}
    await admin.close()

    # then they are what was asked for, and the topics are the registry's
    assert version.startswith("18.")
    assert described[topic] == 3
    for expected in plan(deployment):
        assert described[expected.name] == expected.partitions


async def test_postgres_runs_without_privileges(stack: SharedStack) -> None:
    # given the server of the stack, when the users of its processes are read
    server = psutil.Process(stack.local.parts["postgres"].pid)
    users = {process.uids().real for process in (server, *server.children())}

    # then none is root, and without root it is ourselves
    assert 0 not in users
    if os.geteuid() != 0:
        assert users == {os.geteuid()}


async def test_a_second_supervisor_is_refused(stack: SharedStack) -> None:
    with pytest.raises(AlreadyRunningError):
        LocalStack(stack.local.data)


@pytest.mark.parametrize("name", ["postgres"])
async def test_a_part_that_dies_comes_back(stack: SharedStack, name: str) -> None:
    # given a running part
    part = stack.local.parts[name]
    process = psutil.Process(part.pid)
    restarts = part.restarts

    # when its process is killed from outside
    process.send_signal(signal.SIGKILL)
    while part.restarts == restarts:
        await part.changed()
    await part.until_ready()

    # then another serves in its place
    assert part.state is PartState.READY
    assert part.pid != process.pid
    assert not process.is_running()


def test_the_lock_names_no_host() -> None:
    text = (Path(__file__).parents[1] / "kafka.lock").read_text()
    assert "://" not in text

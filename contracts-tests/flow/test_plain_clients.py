"""Owns the promise that a system which knows the topics and nothing else gets its run done, in any language."""

import asyncio
import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from penstock.contracts import generate
from penstock.contracts.envelope import decode
from penstock.contracts.messages import RunFinished
from penstock.contracts.schema import producer_schema
from penstock.contracts.topics import RUN_FINISHED, RUN_REQUESTED, WORKFLOW_PUBLISHED, dead_letter_topic
from penstock.workflow import notation
from penstock.workflow.publish import published
from services.local import kafka_cache
from services.local.system import System, Systems

pytestmark = [pytest.mark.stack, pytest.mark.slow]

CLIENTS = Path(__file__).parents[2] / "examples" / "plain_clients"
COMPILER = ("org.eclipse.jdt", "ecj", "3.43.0")
COMPILER_SHA256 = "c786468c65e906498e7e36ece4e0d04c6d3dd34c9a61b34a3a5b512801911a82"
WANTED = ("kafka-clients-", "jackson-databind-", "jackson-core-", "jackson-annotations-", "slf4j-api-", "lz4-java-")
ANSWER_SECONDS = 90.0


def fetch_compiler(folder: Path) -> Path:
    """Our Java runtime has no compiler: Eclipse's is one jar, from where the broker's jars come from."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    maven = MavenContext(
        repo_cache=folder, local_repos=[settings.repo_cache], remote_repos=settings.repositories or None
    )
    group, artifact, version = COMPILER
    jar: Path = maven.project(group, artifact).at_version(version).artifact().resolve()
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == COMPILER_SHA256
    return jar


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), ANSWER_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def java_client(folder: Path) -> list[str]:
    jars = [jar for jar in sorted(kafka_cache.jars_folder().iterdir()) if jar.name.startswith(WANTED)]
    class_path = os.pathsep.join([str(folder), *map(str, jars)])
    java = (kafka_cache.java()[0], "-XX:TieredStopAtLevel=1")  # it lives for seconds
    compiler = await asyncio.to_thread(fetch_compiler, folder / "maven")
    source = str(CLIENTS / "PlainClient.java")
    await output_of(
        *(*java, "-jar", str(compiler), "-source", "21", "-target", "21"),
        *("-cp", class_path, "-d", str(folder), source),
    )
    return [*java, "-cp", class_path, "PlainClient"]


async def python_client(_: Path) -> list[str]:
    return [sys.executable, str(CLIENTS / "plain_client.py")]


@pytest.fixture(scope="module")
async def greeting(module_system: Systems) -> System:
    """A system that knows the workflow of the README."""
    system = await module_system(gateway=0, tool_executor=0, worker=0)
    definition = published(notation.load((CLIENTS / "greet.yaml").read_text()), datetime(2026, 11, 21, tzinfo=UTC))
    async with AIOKafkaProducer(bootstrap_servers=system.bootstrap_servers) as producer:
        key = f"{definition.name}@{definition.version}".encode()
        await producer.send_and_wait(WORKFLOW_PUBLISHED.name, definition.to_json(), key=key)
    return system


async def read(system: System, topic: str, wanted: set[str]) -> dict[str, list[Any]]:
    """The records of a topic by run id, once every wanted one is there, and all that are there by then."""
    found: dict[str, list[Any]] = {run_id: [] for run_id in wanted}
    consumer: Any = AIOKafkaConsumer(topic, bootstrap_servers=system.bootstrap_servers, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(ANSWER_SECONDS):
        while not all(found.values()):
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    if b'"run_id"' in record.value:  # the poison has none
                        found.setdefault(json.loads(record.value)["run_id"], []).append(record)
    return found


@pytest.mark.parametrize("client", [java_client, python_client])
async def test_a_plain_client_gets_its_run_done(greeting: System, tmp_path: Path, client: Any) -> None:
    run_id = f"order-{client.__name__}"
    command = await client(tmp_path)

    printed = await output_of(*command, greeting.bootstrap_servers, "greet", run_id, '{"name": "Ada"}')

    jsonschema_rs.validate(producer_schema(RUN_FINISHED), json.loads(printed))
    end = RunFinished.model_validate_json(printed)
    assert (end.run_id, end.tenant, end.workflow, end.status) == (run_id, "default", "greet", "completed")
    assert isinstance(end.output, str)
    assert end.usage.model_calls == 1
    (request,) = (await read(greeting, RUN_REQUESTED.name, {run_id}))[run_id]
    assert (request.key, request.headers) == (None, ())
    assert json.loads(request.value) == {"workflow": "greet", "run_id": run_id, "input": {"name": "Ada"}}


async def test_every_golden_request_gets_its_end(greeting: System) -> None:
    given: dict[str, str] = {}
    async with AIOKafkaProducer(bootstrap_servers=greeting.bootstrap_servers) as producer:
        for path in generate.examples(generate.ROOT, RUN_REQUESTED):
            headers, value, key = generate.headers_of(path), path.read_bytes(), generate.key_of(path)
            _, body = decode(RUN_REQUESTED.name, 0, 0, 0, headers, value)
            run_id = json.loads(body).get("run_id")
            if run_id is not None:
                await producer.send_and_wait(RUN_REQUESTED.name, value, key=key, headers=headers)
                given[run_id] = json.loads(body)["workflow"]

    ends = await read(greeting, RUN_FINISHED.name, set(given))

    for run_id, workflow in given.items():
        (end,) = (json.loads(record.value) for record in ends[run_id])
        jsonschema_rs.validate(producer_schema(RUN_FINISHED), end)
        assert workflow.startswith(end["workflow"])
        assert (end["status"], end["error"]["code"]) == ("failed", "unknown_workflow")


async def test_a_request_published_twice_on_two_partitions_runs_once(greeting: System) -> None:
    request = b'{"workflow": "greet", "run_id": "twice", "input": {"name": "Ada"}}'
    last = b'{"workflow": "greet", "run_id": "after", "input": {"name": "Ada"}}'
    async with AIOKafkaProducer(bootstrap_servers=greeting.bootstrap_servers) as producer:
        for partition in (0, 1, 0, 1):
            await producer.send_and_wait(RUN_REQUESTED.name, request, partition=partition)
        await read(greeting, RUN_FINISHED.name, {"twice"})
        await producer.send_and_wait(RUN_REQUESTED.name, last, partition=0)

    ends = await read(greeting, RUN_FINISHED.name, {"twice", "after"})

    assert len(ends["twice"]) == 1


async def test_what_cannot_be_read_is_a_dead_letter_and_the_next_request_runs(greeting: System) -> None:
    poison = b'{"workflow": "greet", '
    request = b'{"workflow": "greet", "run_id": "behind poison", "input": {"name": "Ada"}}'
    async with AIOKafkaProducer(bootstrap_servers=greeting.bootstrap_servers) as producer:
        await producer.send_and_wait(
            RUN_REQUESTED.name, poison, key=b"\xff", headers=[("x-from", b"\xfe\xff")], partition=2
        )
        await producer.send_and_wait(RUN_REQUESTED.name, request, partition=2)

    await read(greeting, RUN_FINISHED.name, {"behind poison"})

    letters: Any = AIOKafkaConsumer(
        dead_letter_topic(RUN_REQUESTED.name),
        bootstrap_servers=greeting.bootstrap_servers,
        auto_offset_reset="earliest",
    )
    async with letters, asyncio.timeout(ANSWER_SECONDS):
        letter = await letters.getone()
    assert (letter.key, letter.value, letter.headers[0]) == (b"\xff", poison, ("x-from", b"\xfe\xff"))
    assert ("__dlq.errors.topic", RUN_REQUESTED.name.encode()) in letter.headers

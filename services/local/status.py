"""Owns what a local stack says about itself: the status file, who holds the data folder, and which of it is true."""

import fcntl
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.local import probes
from services.local.options import Model
from services.local.part import PartState

StackState = Literal["starting", "running", "stopping", "stopped"]


class AlreadyRunningError(RuntimeError):
    """Another supervisor holds the data folder."""


class PartStatus(BaseModel):
    """One part."""

    model_config = ConfigDict(frozen=True)

    state: PartState
    pid: int | None = None
    restarts: int = 0
    detail: str = ""
    ports: dict[str, int] = Field(default_factory=dict)
    ready_after_seconds: float | None = None
    log: str = ""


class Status(BaseModel):
    """The whole stack."""

    model_config = ConfigDict(frozen=True)

    state: StackState
    data: str
    supervisor_pid: int | None = None
    bootstrap_servers: str | None = None
    gateway_url: str | None = None
    postgres_url: str | None = None
    postgres_urls: dict[str, str] = Field(default_factory=dict)
    model_url: str | None = None
    model: Model | None = None
    task_modules: tuple[str, ...] = ()
    parts: dict[str, PartStatus] = Field(default_factory=dict)


def status_file(data: Path) -> Path:
    """Where the supervisor writes it."""
    return data / "status.json"


def write(data: Path, status: Status) -> None:
    """Replace the file as a whole, readable by its owner alone: it holds the database's password."""
    file = status_file(data)
    fresh = file.with_suffix(".partial")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(status.model_dump_json(indent=2) + "\n")
    fresh.replace(file)


def read(data: Path) -> Status:
    """What is true now: a file that a killed supervisor left behind is told from a live one by the folder's lock."""
    stopped = Status(state="stopped", data=str(data.resolve()))
    if holder(data) is None:
        return stopped
    try:
        return Status.model_validate_json(status_file(data).read_bytes())
    except (FileNotFoundError, ValidationError):
        return stopped.model_copy(update={"state": "starting"})


def holder(data: Path) -> int | None:
    """The process id of the supervisor that holds the data folder; None where nobody does."""
    try:
        with (data / "lock").open("r+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0)
    except FileNotFoundError:
        pass
    return None


def asked(status: Status) -> Status:
    """The same, with what each ready service answers on /readyz at this moment."""
    parts = dict(status.parts)
    for name, part in status.parts.items():
        port = part.ports.get("health_port")
        if port is None or part.state is not PartState.READY:
            continue
        code, body = probes.http_answer(port, "/readyz")
        if code != 200:
            detail = "no answer on /readyz" if code is None else f"/readyz says {code}: {body.decode(errors='replace')}"
            parts[name] = part.model_copy(update={"state": PartState.STARTING, "detail": detail.strip()[:500]})
    return status.model_copy(update={"parts": parts})

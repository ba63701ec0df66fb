"""Owns a supervisor in the background: starting one, following its start through a pipe, and stopping it."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from services.local import status as status_of
from services.local.options import Options
from services.local.part import PartChange, PartState
from services.local.process import tail
from services.local.report import Report
from services.local.settings import penstock_environment, python_environment
from services.local.status import Status

STOP_SECONDS = 90.0
PAUSE_SECONDS = 0.05


class SupervisorFailedError(RuntimeError):
    """The supervisor ended, or could not be ended."""


def start(data: Path, options: Options, report: Report) -> None:
    """Start a supervisor in a session of its own and follow it until everything is ready."""
    logs = data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "supervisor.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "services.local", "supervise"),
                *("--data", str(data), "--options", options.model_dump_json()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=python_environment() | penstock_environment(),
            start_new_session=True,
            text=True,
        )
    # Whoever started it may live long, too, and is the one who must take note of its end.
    threading.Thread(target=process.wait, name="supervisor", daemon=True).start()
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            status = Status.model_validate(message["status"])
            report(status, _change(message["change"]))
            if status.state == "running":
                return
    process.wait()
    lines = "\n  ".join(tail(log))
    raise SupervisorFailedError(f"the stack did not start; {log}:\n  {lines}")


class PipeReport:
    """The other end: a line of JSON per change on standard output, until everything runs."""

    def __init__(self) -> None:
        self._open = True

    def __call__(self, status: Status, change: PartChange | None) -> None:
        """Report a change."""
        if not self._open:
            return
        try:
            print(json.dumps({"status": status.model_dump(mode="json"), "change": _plain(change)}), flush=True)
        except BrokenPipeError:
            self._close()
        if status.state == "running":
            self._close()

    def _close(self) -> None:
        # Standard output goes where standard error goes from now on; whoever started us sees the end of the pipe.
        self._open = False
        os.dup2(2, 1)


def stop(data: Path) -> bool:
    """Stop the supervisor of a data folder and wait for it; False where none ran."""
    pid = status_of.holder(data)
    if pid is None:
        return False
    supervisor = psutil.Process(pid)
    supervisor.terminate()
    give_up_at = time.monotonic() + STOP_SECONDS
    while _lives(supervisor):
        if time.monotonic() > give_up_at:
            supervisor.kill()
            raise SupervisorFailedError(f"the supervisor {pid} did not stop within {STOP_SECONDS:.0f} s: killed")
        time.sleep(PAUSE_SECONDS)
    return True


def _lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that its parent has not waited for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _plain(change: PartChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {"part": change.part, "state": change.state, "detail": change.detail, "lines": change.lines}


def _change(plain: dict[str, Any] | None) -> PartChange | None:
    if plain is None:
        return None
    return PartChange(plain["part"], PartState(plain["state"]), plain["detail"], tuple(plain["lines"]))

"""Owns one operating-system process of the stack: how it is launched, signalled, waited for, and kept from leaking."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
KEEPER = Path(__file__).with_name("keeper.py")
TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a part runs as when the supervisor is root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. The environment is whole: nothing is inherited beside it."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    account: Account | None = None
    niceness: int = 0


class Keeper:
    """The process that kills all parts when this one is gone, however it went."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, once."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                text=True,
            )

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    def add(self, group: int) -> None:
        """A group lives."""
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """A group has ended; its number may come back as somebody else's."""
        self._tell(f"-{group}\n")

    def stop(self) -> None:
        """Close its pipe: it kills what is left, and ends."""
        if self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
        self._process = None

    def _tell(self, line: str) -> None:
        # A keeper that somebody killed leaves the kernel's death signal, which each part asked for itself.
        if self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


class PartProcess:
    """A running process in a session of its own, so that a Ctrl-C on the terminal does not reach it first.

    Launch it from the thread that lives as long as the parts should: Linux sends the death signal when the thread
    that forked ends.
    """

    def __init__(self, command: Command, log: Path, keeper: Keeper) -> None:
        self._keeper = keeper
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        account = command.account
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                    *((str(account.uid), str(account.gid)) if account else ("-1", "-1")),
                    str(command.niceness),
                    *command.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=command.directory,
                env=dict(command.environment),
                start_new_session=True,
            )
        keeper.add(self._popen.pid)
        threading.Thread(target=self._wait, args=(loop,), name=f"wait-{self._popen.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id, which is also its group's and its session's."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it has not been waited for yet."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Wait for its end and give its exit status; negative for a signal."""
        return await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(number)

    async def stop(self, number: signal.Signals, seconds: float) -> int:
        """Ask it to end, and after `seconds` do not ask any more."""
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            return await asyncio.wait_for(self.wait(), seconds)
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._popen.wait()
        # What the part had started itself ends with it: tool servers, compilers, shells.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._keeper.remove(self._popen.pid)
        with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for this part
            loop.call_soon_threadsafe(self._resolve, status)

    def _resolve(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)


def tail(log: Path, start: int = 0, lines: int = 12) -> tuple[str, ...]:
    """The last lines of a log, from byte `start` on."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ()
    return tuple(text.rstrip().splitlines()[-lines:])

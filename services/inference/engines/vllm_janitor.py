"""Owns that no engine outlives its service: a small process beside it that ends what a killed service leaves behind.

vLLM's processes notice when their own children die, not when their parent does. A service that is killed outright would
leave an engine that nobody speaks to, and that holds the whole GPU against the service's next start.
"""

import os
import select
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import psutil

POLL_SECONDS: Final = 0.5


class Janitor:
    """Watches over processes of this one until it is dismissed."""

    def __init__(self) -> None:
        # A session of its own: what is sent to the service's process group is not meant for it.
        self._process: Final = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._told: Final[set[int]] = set()

    def watch_over(self, process_ids: Iterable[int]) -> None:
        """These are to end with this process, and their children with them."""
        new = set(process_ids) - self._told
        self._told.update(new)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it was killed: what it guards against has become two faults at once
            for process_id in new:
                self._process.stdin.write(b"%d\n" % process_id)
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Ends it; whoever it watched over and still runs is killed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def kill_tree(process: psutil.Process) -> None:
    """Kills a process, stopped or not, and all that it began. One whose id was given to another is left alone."""
    with suppress(psutil.Error):
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        process.kill()


def main() -> None:
    """Waits for the service's end, and cleans up."""
    # Not the pipe's end alone: a forked engine holds a copy of it.
    service, watched, rest = os.getppid(), [], b""
    while os.getppid() == service:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            said = os.read(sys.stdin.fileno(), 4096)
            if not said:
                break
            *lines, rest = (rest + said).split(b"\n")
            for line in lines:
                with suppress(psutil.Error):
                    watched.append(psutil.Process(int(line)))
    for process in watched:
        kill_tree(process)


if __name__ == "__main__":
    main()

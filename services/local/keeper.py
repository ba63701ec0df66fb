"""Owns the promise that nothing outlives the supervisor: kills every part's process group when its pipe closes.

Runs by path with `python -I -S`. Standard input is a pipe that only the supervisor holds open; it names the groups
that live (`+123`) and those that ended (`-123`). The kernel closes the pipe however the supervisor dies.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Follow the groups until the pipe ends, then kill those that are left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()

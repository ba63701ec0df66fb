"""Owns the last step before a part runs: become its user, die with the supervisor, replace this process.

Runs by path with `python -I -S`, before anything of the project is imported, because the death signal is cleared
by a change of user and therefore has to be asked for after it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """`launcher.py PARENT UID GID NICENESS COMMAND…`; a UID of -1 keeps the user."""
    parent, uid, gid, niceness = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    os.nice(niceness)
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor died before its part could start")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])

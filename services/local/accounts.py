"""Owns the unprivileged user that a part runs as where the supervisor is root, and what that user can reach."""

import os
import pwd
import stat
from pathlib import Path

from services.local.process import Account

UNPRIVILEGED_NAMES = ("postgres", "nobody")


def unprivileged() -> Account | None:
    """The user to become; None where we are not root and need not change."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise RuntimeError(f"run as root, Postgres needs one of the users {', '.join(UNPRIVILEGED_NAMES)}; there is none")


def can_reach(account: Account, path: Path) -> bool:
    """Whether the user may enter every folder on the way to the path."""
    return all(_may_enter(account, folder) for folder in path.resolve().parents)


def _may_enter(account: Account, folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)

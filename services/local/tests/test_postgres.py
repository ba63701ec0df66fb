"""Owns the tests of Postgres where a root's folders are closed to every other user."""

import os
import shutil
from pathlib import Path

import asyncpg
import psutil
import pytest

from services.local import accounts
from services.local.process import Account
from services.local.stack import LocalStack

pytestmark = pytest.mark.stack


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the user")
async def test_it_serves_from_closed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a data folder that only root may enter, and programs that only root can reach
    assert mode(tmp_path) == 0o700
    reach = accounts.can_reach

    def closed(account: Account, path: Path) -> bool:
        return "pginstall" not in path.parts and reach(account, path)

    monkeypatch.setattr(accounts, "can_reach", closed)
    stack = LocalStack(tmp_path / "data")

    # when it is started, stopped and started again
    await stack.start(["postgres"])
    url = stack.postgres_url("penstock_gateway")
    await execute(url, "CREATE TABLE kept (n int)")
    user = psutil.Process(stack.parts["postgres"].pid).uids().real
    await stack.stop_part("postgres")
    await stack.start(["postgres"])
    await execute(url, "INSERT INTO kept VALUES (1)")
    await stack.stop()

    # then it ran as somebody else, kept its data, and the closed folder stayed closed
    assert user != 0
    assert mode(tmp_path) == 0o700
    discard(tmp_path / "data/postgres/elsewhere")


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o777


def discard(link: Path) -> None:
    """Remove the place outside of the data folder that the data went to."""
    assert (link / "data/PG_VERSION").exists()
    shutil.rmtree(link.readlink())


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()

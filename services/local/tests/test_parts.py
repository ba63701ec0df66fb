"""Owns the tests of what needs no broker: ports, status, the keeper, a part's life."""

import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.local import status as status_of
from services.local.part import Note, Part, PartChange, PartFailedError, PartSpec, PartState
from services.local.ports import LOOPBACK, Ports
from services.local.process import Command, Keeper, tail
from services.local.status import Status

SLEEP = (sys.executable, "-I", "-S", "-c", "import signal; print('up', flush=True); signal.pause()")
FAIL = (sys.executable, "-I", "-S", "-c", "raise SystemExit('no such setting')")


def spec(arguments: tuple[str, ...], ready: Callable[[], Awaitable[None]]) -> PartSpec:
    async def prepare(_: Note) -> Command:
        return Command(arguments)

    return PartSpec("sleeper", prepare, ready)


def test_a_folder_keeps_its_ports_while_they_are_free(tmp_path: Path) -> None:
    # given the ports of a folder
    first = Ports(tmp_path / "ports.json")
    kafka, gateway = first.port("kafka"), first.port("gateway")

    # when one of them is taken by somebody else and the folder is used again
    with socket.create_server((LOOPBACK, kafka)):
        again = Ports(tmp_path / "ports.json")

        # then that one is another, the other is the same, and none is given twice
        assert again.port("gateway") == gateway
        assert again.port("kafka") not in (kafka, gateway)
        assert again.port("kafka") == again.port("kafka")


def test_a_status_file_that_nobody_holds_is_not_believed(tmp_path: Path) -> None:
    # given what a killed supervisor left behind
    left = Status(state="running", data=str(tmp_path), supervisor_pid=1, bootstrap_servers="127.0.0.1:1")
    status_of.write(tmp_path, left)
    (tmp_path / "lock").write_text("1")

    assert status_of.read(tmp_path) == Status(state="stopped", data=str(tmp_path))


def test_the_tail_of_a_log_begins_where_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("of an earlier start\n")
    size = log.stat().st_size
    log.write_text(log.read_text() + "one\ntwo\nthree\n")

    assert tail(log, size) == ("one", "two", "three")
    assert tail(log, size, lines=2) == ("two", "three")
    assert tail(tmp_path / "none.log") == ()


def test_the_keeper_kills_the_groups_that_are_left() -> None:
    # given a keeper that knows two groups, one of which has ended
    keeper = Keeper()
    keeper.start()
    with subprocess.Popen(SLEEP, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        keeper.add(process.pid)
        keeper.add(2**22)
        keeper.remove(2**22)

        # when its pipe closes, then the other is killed
        keeper.stop()
        assert process.wait() == -signal.SIGKILL


async def test_a_part_that_dies_is_started_again(tmp_path: Path) -> None:
    # given a part that is ready
    async def ready() -> None:
        return None

    changes: list[PartChange] = []
    keeper = Keeper()
    part = Part(spec(SLEEP, ready), tmp_path / "log", keeper, changes.append)
    await part.start()
    first = part.pid

    # when it dies
    part.send(signal.SIGKILL)
    while part.restarts == 0:
        await part.changed()
    await part.until_ready()

    # then another runs, which was said; and once stopped, none does
    second = part.pid
    assert second not in (None, first)
    assert "killed by SIGKILL; again in 0.2 s" in [change.detail for change in changes]
    await part.stop()
    assert part.pid is None
    assert part.state is PartState.STOPPED


async def test_a_part_that_never_becomes_ready_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    # given a part that ends at once, every time
    async def never() -> None:
        await part.changed()
        await never()

    part = Part(spec(FAIL, never), tmp_path / "log", Keeper(), lambda _: None)

    # when it is started, then its last line is in the error
    with pytest.raises(PartFailedError, match="no such setting"):
        await part.start()
    await part.stop()

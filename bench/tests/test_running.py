"""Tests of how a bench ends: by itself, or because somebody asked it to."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from bench.running import SIGNALS, run


@pytest.fixture(autouse=True)
def _in_the_background() -> Iterator[None]:
    """As a shell starts what it does not wait for: Ctrl-C is ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_it_and_it_cleans_up_to_the_end(number: signal.Signals) -> None:
    done: list[str] = []

    async def bench() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)  # somebody who cannot wait
            for _ in range(3):
                await asyncio.sleep(0)
            done.append("cleaned up")

    with pytest.raises(SystemExit) as ended:
        run(bench())

    assert ended.value.code == 128 + number
    assert done == ["cleaned up"]


def test_one_that_nobody_stops_runs_to_its_end() -> None:
    done: list[str] = []

    async def bench() -> None:
        await asyncio.sleep(0)
        done.append("measured")

    run(bench())

    assert done == ["measured"]

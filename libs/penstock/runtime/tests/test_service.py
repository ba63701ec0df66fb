"""A service's life as its process lives it: exit codes, signals, settings."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

SCRIPT = textwrap.dedent(
    """
    import asyncio
    from penstock.contracts.topics import Service
    from penstock.runtime.service import run_service
    from penstock.runtime.settings import ServiceSettings
    from penstock.runtime.telemetry import bound

    async def main(ctx):
        print("up", flush=True)
        {body}

    run_service(Service.WORKER, ServiceSettings, main)
    """
)


async def start(body: str, environ: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """A service with this main."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SCRIPT.format(body=body),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "libs"), **(environ or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def up(process: asyncio.subprocess.Process) -> None:
    """Wait until main runs."""
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"up\n"


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Exit code and what it said."""
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_order(number: signal.Signals) -> None:
    """Given a service at work, when it is asked to stop, then main sees `stop` and the exit code is 0."""
    process = await start("await ctx.stop.wait(); print('drained')")
    await up(process)
    process.send_signal(number)

    code, said = await ended(process)

    assert code == 0, said
    assert '"event":"service.stopping"' in said


async def test_a_second_interrupt_ends_it_at_once() -> None:
    """Given a service that drains for long, when Ctrl-C comes twice, then it is gone."""
    process = await start("await ctx.stop.wait(); print('draining', flush=True); await asyncio.sleep(600)")
    await up(process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"draining\n"
    process.send_signal(signal.SIGINT)

    assert (await ended(process))[0] == 130


async def test_a_failure_is_logged_and_told_by_the_exit_code() -> None:
    """Given a main that raises, then the traceback is logged and the exit code is 1."""
    process = await start("raise ValueError('broken')")

    code, said = await ended(process)

    assert code == 1
    assert "ValueError: broken" in said


async def test_bad_settings_do_not_start() -> None:
    """Given a misspelt variable, then the process says which and exits with 2."""
    process = await start("pass", {"PENSTOCK_QUEUE": "a"})

    code, said = await ended(process)

    assert code == 2
    assert "PENSTOCK_QUEUE: no such setting; did you mean PENSTOCK_QUEUES?" in said


async def test_every_line_is_json_with_the_service_and_the_run() -> None:
    """Given log lines inside `bound`, then they name service, instance, run, step and request."""
    body = "with bound(run='r', step='s', request='q'): ctx.log.warning('x')"
    process = await start(body, {"PENSTOCK_INSTANCE": "one"})

    code, said = await ended(process)

    assert code == 0, said
    (line,) = [each for each in said.splitlines() if '"event":"x"' in each]
    for part in ('"service":"worker"', '"instance":"one"', '"run":"r"', '"step":"s"', '"request":"q"'):
        assert part in line

"""The command line as a process, against all services."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from penstock.contracts.topics import RUN_REQUESTED
from services.local.fixtures import temporary_folder
from services.local.settings import python_environment
from services.local.system import System, Systems

pytestmark = [pytest.mark.stack, pytest.mark.slow]

GREET = """
name: greet
input: {type: object, required: [name]}
tiers: {small: [{pool: small, model: smollm2-135m}]}
do:
  id: both
  chain:
    - {id: greeting, model: small, prompt: "Greet {{ input.name }}.", max_tokens: 8}
    - {id: shorter, model: small, prompt: "Shorten {{ greeting }}", max_tokens: 4}
"""
SECONDS_MAX = 120.0


AT_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("services.cli", run_name="__main__", alter_sys=True)
"""
"""The command with Ctrl-C as a terminal has it: tests in the background of a shell inherit that it is ignored."""


class Shell:
    """Runs commands against a system."""

    def __init__(self, system: System, folder: Path) -> None:
        self.folder = folder
        self.environment = python_environment() | {
            "PENSTOCK_GATEWAY_URL": system.gateway_url,
            "PENSTOCK_KAFKA_BOOTSTRAP_SERVERS": system.bootstrap_servers,
        }

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            AT_A_TERMINAL,
            *arguments,
            env=self.environment,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        return process.returncode, out.decode(), err.decode()


@pytest.fixture(scope="module")
async def system(module_system: Systems) -> System:
    """All services, with a simulated model."""
    return await module_system(worker=0, tool_executor=0)


@pytest.fixture(scope="module")
async def penstock(system: System) -> AsyncIterator[Shell]:
    """The command, with a published workflow."""
    async with temporary_folder() as folder:
        shell = Shell(system, folder)
        (folder / "greet.yaml").write_text(GREET)
        code, out, err = await shell("publish", "greet.yaml")
        assert (code, out.startswith("Published greet@")) == (0, True), err
        yield shell


async def test_a_watched_run_shows_its_output_and_ends_with_0(penstock: Shell) -> None:
    # Given a published workflow, when a run of it is watched
    given = ("--input", '{"name": "Ada"}', "--run-id", "a/b c", "--label", "suite=cli")
    code, out, err = await penstock("run", "greet", *given, "--watch", "--json")

    # Then it ends with its result
    assert code == 0, err
    assert json.loads(out)["run_id"] == "a/b c"
    assert json.loads(out)["status"] == "completed"

    # And it is listed, shown, counted and said to be simulated
    _, listed, _ = await penstock("runs", "list", "--label", "suite=cli", "--json")
    _, shown, _ = await penstock("runs", "show", "a/b c", "--json")
    _, costs, _ = await penstock("costs", "--by", "workflow,model", "--json")
    code, lag, _ = await penstock("lag", "--all", "--json")
    assert [run["run_id"] for run in json.loads(listed)["runs"]] == ["a/b c"]
    assert [step["phase"] for step in json.loads(shown)["steps"]] == ["completed", "completed"]
    assert json.loads(shown)["simulated"] is True
    assert {line["simulated"] for line in json.loads(costs)["lines"]} == {True}
    assert (code, bool(json.loads(lag)["lags"])) == (0, True)


async def test_a_version_is_compared_aliased_and_what_a_run_got_is_listed(penstock: Shell) -> None:
    # Given a workflow, and a second version that needs more of its callers
    hail = GREET.replace("name: greet", "name: hail")
    changed = hail.replace("name: hail", "name: hail\nversion: '2'").replace("max_tokens: 4", "max_tokens: 5")
    (penstock.folder / "hail.yaml").write_text(hail)
    (penstock.folder / "second.yaml").write_text(changed.replace("[name]", "[name, tone]"))
    before = json.loads((await penstock("publish", "hail.yaml", "--json"))[1])["version"]

    # When it is published, and an alias is set on the first with the second for nearly everybody
    code, out, err = await penstock("publish", "second.yaml")
    assert code == 0, err
    assert f"Since {before}:" in out
    assert "`shorter`: max_tokens changed from 4 to 5" in out
    assert "callers: tone: required now" in out
    _, out, err = await penstock("alias", "set", "hail@stable", before, "--canary", "2=99.9%")
    assert out == f"hail@stable is 0.1 % {before}, 99.9 % 2\n", err
    _, out, _ = await penstock("alias", "list")
    assert "hail@stable" in out

    # Then a run of the alias is the canary's, by its id
    given = ("--input", '{"name": "Ada", "tone": "warm"}', "--run-id", "by-alias", "--watch")
    code, _, err = await penstock("run", "hail@stable", *given)
    assert code == 0, err
    _, listed, _ = await penstock("runs", "list", "--workflow", "hail")
    assert any("by-alias" in line and "hail@2" in line for line in listed.splitlines())


async def test_input_that_misses_the_schema_is_bad_usage_with_its_path(penstock: Shell) -> None:
    # Given a workflow with a schema, when the input misses it
    code, _, err = await penstock("run", "greet", "--input", "{}")

    # Then nothing was started
    assert code == 2
    assert "$.input: " in err


async def test_ctrl_c_ends_a_watch_with_130(system: System, penstock: Shell) -> None:
    # Given a run that nobody works on, and somebody who watches it
    system.pause("inference")
    try:
        given = ("--input", '{"name": "Bob"}', "--run-id", "stuck", "--watch")
        watching = await penstock.start("run", "greet", *given)
        async with asyncio.timeout(SECONDS_MAX):
            while (await penstock("runs", "show", "stuck"))[0] != 0:
                assert watching.returncode is None

        # When they press Ctrl-C
        watching.send_signal(signal.SIGINT)

        # Then the command ends, the run does not
        assert await asyncio.wait_for(watching.wait(), SECONDS_MAX) == 130
        _, shown, _ = await penstock("runs", "show", "stuck", "--json")
        assert json.loads(shown)["status"] in ("requested", "running")
    finally:
        system.resume("inference")


async def test_a_dead_letter_goes_back_byte_for_byte_and_is_marked(system: System, penstock: Shell) -> None:
    # Given a poison request with a key and a header that is not text
    producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap_servers)
    await producer.start()
    poison, headers = b'{"workflow": \xff', [("x-mine", b"\xfe\x00")]
    await producer.send_and_wait(RUN_REQUESTED.name, poison, key=b"k\xff", partition=2, headers=headers)
    await producer.stop()
    await waiting(penstock, 1)

    # When it is sent back
    code, out, err = await penstock("dlq", "redrive", RUN_REQUESTED.name, "--json")

    # Then it is refused again, the same bytes from the same partition, and only the new one waits
    assert (code, json.loads(out)["redriven"]) == (0, 1), err
    await waiting(penstock, 1, letters=2)
    _, out, _ = await penstock("dlq", "show", RUN_REQUESTED.name, "--json")
    first, second = json.loads(out)
    assert first["value_base64"] == second["value_base64"]
    assert first["key_base64"] == second["key_base64"]
    assert [letter["errors"]["partition"] for letter in (first, second)] == ["2", "2"]
    assert second["headers"].keys() - first["headers"].keys() == {"__dlq.redriven.from"}


async def waiting(penstock: Shell, count: int, letters: int | None = None) -> None:
    """Returns when so many letters wait."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            _, out, _ = await penstock("dlq", "list", "--json")
            boxes = [box for box in json.loads(out) if box["topic"].endswith(RUN_REQUESTED.name)]
            if boxes and boxes[0]["waiting"] == count and letters in (None, boxes[0]["letters"]):
                return

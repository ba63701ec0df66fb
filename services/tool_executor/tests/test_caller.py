"""Tests of tool calls against a real MCP server on stdio."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import NextMove, ToolCompleted, ToolRequested, UsageRecorded, WorkError
from penstock.contracts.topics import TOOL_COMPLETED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.errors import Poison
from penstock.runtime.health import Health
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.work import Answers
from penstock.testkit.received import Record
from services.tool_executor.caller import ToolCaller
from services.tool_executor.server import REQUEST_ID_META, ToolServer
from services.tool_executor.settings import ToolExecutorSettings

AT_MS = 1_795_000_000_000
KEY = run_key("default", "r")
CANCELLATIONS = Cancellations()


@pytest.fixture(scope="module")
async def caller(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ToolCaller]:
    """A caller of the tests' server, and of one that cannot start."""
    path = tmp_path_factory.mktemp("servers") / "servers.yaml"
    script = Path(__file__).with_name("server_for_tests.py")
    path.write_text(
        f"servers:\n"
        f"  tests: {{command: '{{python}}', args: ['{script}'], env: {{GIVEN: yes-it-is}}}}\n"
        f"  broken: {{command: /nonexistent/server}}\n"
    )
    specs = ToolExecutorSettings(tool_executor_servers=path).servers()
    servers = {name: ToolServer(name, spec, Health()) for name, spec in specs.items()}
    running = [asyncio.create_task(server.run()) for server in servers.values()]
    answers = Answers(Service.TOOL_EXECUTOR, TOOL_COMPLETED, "tool", "t")
    large = LargeValues(Blobs(""), lambda: AT_MS)
    yield ToolCaller(servers, answers, large, 4, lambda: AT_MS, asyncio.get_running_loop().time, CANCELLATIONS)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def call(caller: ToolCaller, tool: str, seconds: float = 60.0, **changes: Any) -> ToolCompleted:
    fields: dict[str, Any] = {
        "request_id": request_id(KEY, "s", 1),
        "tenant": "default",
        "run_key": KEY,
        "run_id": "r",
        "home": 1,
        "workflow": "w",
        "version": "1",
        "step": "s",
        "attempt": 1,
        "deadline": datetime.fromtimestamp(AT_MS / 1000 + seconds, UTC),
        "tool": tool,
        "grants": [tool],
    }
    request = ToolRequested(**{**fields, **changes})
    completed, usage = await caller.handle(Record(request.to_json(), timestamp=AT_MS))
    recorded = UsageRecorded.model_validate_json(usage.value)
    assert (recorded.kind, recorded.subject) == ("tool", tool)
    return ToolCompleted.model_validate_json(completed.value)


async def error_of(caller: ToolCaller, tool: str, seconds: float = 60.0, **changes: Any) -> WorkError:
    error = (await call(caller, tool, seconds, **changes)).error
    assert error is not None
    return error


async def test_structured_content_is_the_output(caller: ToolCaller) -> None:
    completed = await call(caller, "tests.add", arguments={"a": 2, "b": 3})

    assert (completed.status, completed.output, completed.tool) == ("succeeded", {"result": 5}, "tests.add")


async def test_where_there_is_only_text_the_text_is_the_output(caller: ToolCaller) -> None:
    assert (await call(caller, "tests.say", arguments={"text": "hello"})).output == "hello"


async def test_calls_of_one_server_run_side_by_side(caller: ToolCaller) -> None:
    waiting = asyncio.create_task(call(caller, "tests.wait", seconds=5.0))

    numbers = await asyncio.gather(*(call(caller, "tests.add", arguments={"a": n, "b": 0}) for n in range(20)))

    assert [each.output["result"] for each in numbers] == list(range(20))
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("tool", "changes", "code", "message"),
    [
        ("tests.add", {"grants": ["tests.say"]}, "not_granted", "'tests.add'"),
        ("nobody.add", {}, "unknown_server", "broken, tests"),
        ("tests.nothing", {}, "unknown_tool", "'nothing'"),
        ("tests.add", {"arguments": {"a": 1}}, "arguments_invalid", '"b" is a required property'),
        ("tests.add", {"arguments": {"a": "x", "b": 1}}, "arguments_invalid", "arguments.a: "),
        ("tests.fail", {"arguments": {"message": "no such order"}}, "tool_failed", "no such order"),
        ("tests.large", {}, "value_too_large", "bytes"),
    ],
)
async def test_what_cannot_succeed_is_not_tried_again(
    caller: ToolCaller, tool: str, changes: dict[str, Any], code: str, message: str
) -> None:
    error = await error_of(caller, tool, **changes)

    assert (error.code, error.next) == (code, NextMove.GIVE_UP)
    assert message in error.message


async def test_past_its_deadline_nothing_is_called(caller: ToolCaller) -> None:
    assert (await error_of(caller, "tests.die_once", seconds=-1)).code == "deadline_exceeded"


async def test_a_server_that_is_away_is_tried_again_later(caller: ToolCaller) -> None:
    error = await error_of(caller, "broken.add", seconds=0.01)

    assert (error.code, error.next) == ("server_away", NextMove.RETRY_AFTER)


@pytest.mark.parametrize(
    ("idempotent", "code", "next_move"),
    [(True, "timeout", NextMove.RETRY_AFTER), (False, "unknown_outcome", NextMove.GIVE_UP)],
)
async def test_a_lost_answer_is_tried_again_only_where_that_is_safe(
    caller: ToolCaller, idempotent: bool, code: str, next_move: NextMove
) -> None:
    error = await error_of(caller, "tests.wait", seconds=0.2, idempotent=idempotent)

    assert (error.code, error.next) == (code, next_move)


@pytest.mark.parametrize(
    ("idempotent", "code", "next_move"),
    [(True, "server_died", NextMove.RETRY_AFTER), (False, "unknown_outcome", NextMove.GIVE_UP)],
)
async def test_a_server_that_dies_is_started_again(
    caller: ToolCaller,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    idempotent: bool,
    code: str,
    next_move: NextMove,
) -> None:
    # given a tool that kills its server, on a machine that may be slow to start another
    monkeypatch.setattr("services.tool_executor.caller.OUTAGE_WAIT_SECONDS", 60.0)
    arguments = {"marker": str(tmp_path / "died")}
    error = await error_of(caller, "tests.die_once", arguments=arguments, idempotent=idempotent)
    assert (error.code, error.next) == (code, next_move)

    # then the next call is answered by the next process
    assert (await call(caller, "tests.die_once", arguments=arguments)).output == {"result": "survived"}


async def test_a_server_gets_no_environment_but_its_own(caller: ToolCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = (await call(caller, "tests.environment")).output

    assert variables["GIVEN"] == "yes-it-is"
    assert not [name for name in variables if name.startswith(("PENSTOCK", "PYTEST", "VIRTUAL"))]


async def test_every_call_carries_its_idempotency_key(caller: ToolCaller) -> None:
    completed = await call(caller, "tests.idempotency_key")

    assert completed.output[REQUEST_ID_META] == str(completed.request_id)


async def test_a_record_that_is_no_request_is_poison(caller: ToolCaller) -> None:
    with pytest.raises(Poison):
        await caller.handle(Record(b"{}"))


async def test_a_call_that_nobody_awaits_is_cancelled_at_its_server(caller: ToolCaller, tmp_path: Path) -> None:
    # given a tool at work
    arguments, cancelled_id = {"folder": str(tmp_path)}, request_id(KEY, "s", 99)
    running = asyncio.create_task(
        call(caller, "tests.wait_to_be_cancelled", arguments=arguments, request_id=cancelled_id)
    )
    await appears(tmp_path / "begun")

    # when its request is cancelled
    CANCELLATIONS.tell(cancelled_id, "the branch is not needed")

    # then the answer says so, the server has heard of it, and goes on serving
    completed = await running
    assert completed.error is not None
    assert (completed.error.code, completed.error.next) == ("cancelled", NextMove.GIVE_UP)
    await appears(tmp_path / "cancelled")
    assert (await call(caller, "tests.say", arguments={"text": "hello"})).output == "hello"


async def appears(path: Path) -> None:
    """Another process says that it is so far."""
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - a file is all that the server can leave
            await asyncio.sleep(0.02)

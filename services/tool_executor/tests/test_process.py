"""Tests of the tool executor as a real process on real Kafka, with the example server."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ToolCompleted, ToolRequested
from penstock.contracts.topics import TOOL_COMPLETED, TOOL_REQUESTED, USAGE_RECORDED, dead_letter_topic
from penstock.testkit.process import ROOT, deployment_environ, service_process, topics
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)
SERVERS: Path = ROOT / "examples" / "mcp_server" / "servers.yaml"


def a_request(run_id: str, tool: str) -> ToolRequested:
    key = run_key("default", run_id)
    return ToolRequested(
        request_id=request_id(key, "s", 1),
        tenant="default",
        run_key=key,
        run_id=run_id,
        home=0,
        workflow="w",
        version="1",
        step="s",
        attempt=1,
        deadline=DEADLINE,
        tool=tool,
        arguments={"package": "pydantic"},
        grants=["packages.declared_licence"],
    )


async def test_granted_tools_are_called_others_refused_and_poison_set_aside(stack: SharedStack) -> None:
    # given the executor with the example server
    deployment = await stack.new_deployment()
    environ = {**deployment_environ(deployment), "PENSTOCK_TOOL_EXECUTOR_SERVERS": str(SERVERS)}
    heard = [TOOL_COMPLETED.name, USAGE_RECORDED.name, dead_letter_topic(TOOL_REQUESTED.name)]
    async with (
        service_process("tool_executor", stack.bootstrap_servers, environ) as executor,
        topics(stack.bootstrap_servers, heard) as log,
    ):
        await executor.logged("partitions.assigned")
        await executor.logged("server.up", server="packages")
        assert (await executor.ready())["parts"]["server packages"]["detail"] == "3 tools"

        # when poison comes, then a request for a granted tool, then one for another
        run_id = stack.new_name("run")
        await log.say(TOOL_REQUESTED.name, b"\xff", [("ce_id", b"\xfe")], key=run_id.encode())
        await log.say(TOOL_REQUESTED.name, a_request(f"{run_id}-granted", "packages.declared_licence").to_json())
        await log.say(TOOL_REQUESTED.name, a_request(f"{run_id}-other", "packages.licence_files").to_json())

        # then the first is answered, the other refused
        answers = {
            answer.run_id: answer
            for record in await log.hear(TOOL_COMPLETED.name, 2, run_id.encode())
            for answer in [ToolCompleted.model_validate_json(record.value)]
        }
        assert answers[f"{run_id}-granted"].output["expression"] == "MIT"
        refused = answers[f"{run_id}-other"].error
        assert refused is not None
        assert refused.code == "not_granted"

        # and the poison lies in the dead letter topic, byte for byte
        letters = await log.hear(dead_letter_topic(TOOL_REQUESTED.name), 1)
        assert [(letter.key, letter.value, letter.headers[0]) for letter in letters] == [
            (run_id.encode(), b"\xff", ("ce_id", b"\xfe"))
        ]
        assert await executor.stop() == 0

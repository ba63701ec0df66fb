"""Runs the tool executor: a session with each MCP server, and the requests for their tools."""

import asyncio

from penstock.contracts.topics import TOOL_COMPLETED, TOOL_REQUESTED, Service
from penstock.runtime.blobs import Blobs
from penstock.runtime.clock import now_ms
from penstock.runtime.executor import execute
from penstock.runtime.kafka.cancellations import Cancellations
from penstock.runtime.large_values import LargeValues
from penstock.runtime.service import Context, run_service
from penstock.runtime.work import Answers
from services.tool_executor.caller import ToolCaller
from services.tool_executor.server import ToolServer
from services.tool_executor.settings import ToolExecutorSettings


async def main(context: Context[ToolExecutorSettings]) -> None:
    """Consumes until stopped."""
    settings = context.settings
    servers = {name: ToolServer(name, spec, context.health) for name, spec in settings.servers().items()}
    answers = Answers(context.service, TOOL_COMPLETED, "tool", settings.instance)
    clock = asyncio.get_running_loop().time
    cancellations = Cancellations()
    large = LargeValues(Blobs(settings.blob_url), now_ms)
    caller = ToolCaller(servers, answers, large, settings.home_partitions, now_ms, clock, cancellations)
    sessions = [asyncio.create_task(server.run()) for server in servers.values()]
    groups = {"penstock.tool_executor": [TOOL_REQUESTED.name]}
    try:
        await execute(
            context,
            groups,
            caller.handle,
            answers,
            in_flight_max=settings.tool_executor_in_flight,
            cancellations=cancellations,
        )
    finally:
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)


if __name__ == "__main__":
    run_service(Service.TOOL_EXECUTOR, ToolExecutorSettings, main)

"""Owns one pattern's run: published, asked for on Kafka, followed through the gateway, and shown step by step."""

import json
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from examples.follow import Gateway
from examples.submit import submit
from penstock.contracts.messages import RunFinished, RunRequested, StepChange, StepPhase
from penstock.workflow.definition import Definition
from penstock.workflow.notation import load

FOLDER: Final = Path(__file__).parent
NAMES: Final = ("chaining", "routing", "parallelization", "orchestrator_worker", "evaluator_optimizer", "agent_loop")
TASK_MODULE: Final = "examples.patterns.tasks"
TOOL_SERVERS: Final = FOLDER.parent / "mcp_server" / "servers.yaml"
SHOWN_CHARACTERS_MAX: Final = 90
OVER: Final = (StepPhase.COMPLETED, StepPhase.FAILED, StepPhase.CANCELLED)


def definition(name: str) -> Definition:
    """A pattern's workflow. Raises NotationError, with lines, where the file is not sound."""
    return load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), FOLDER)


async def run_pattern(
    bootstrap_servers: str, gateway_url: str, name: str, package: str, at: datetime, console: Console
) -> RunFinished:
    """Ask for one run and show its steps as they end, then its result."""
    run_id = f"{name}-{at:%Y%m%d-%H%M%S}"
    workflow = definition(name)
    await submit(
        bootstrap_servers, workflow, RunRequested(workflow=workflow.name, input={"package": package}, run_id=run_id), at
    )
    gateway = Gateway(gateway_url)
    ended: list[StepChange] = []
    finished: RunFinished | None = None
    try:
        async with aclosing(gateway.events(run_id)) as events:
            async for event in events:
                if isinstance(event, RunFinished):
                    finished = event
                else:
                    ended.extend(change for change in event.changes if change.phase in OVER)
    finally:
        await gateway.close()
    if finished is None:
        raise AssertionError("a stream of events ends with the run's end or an exception")
    _show(console, workflow, ended, finished)
    return finished


def _show(console: Console, workflow: Definition, ended: list[StepChange], finished: RunFinished) -> None:
    table = Table(
        "step", "kind", "what came of it", title=f"{workflow.name}: {workflow.description}", title_justify="left"
    )
    for change in ended:
        told = change.error.message if change.error is not None else json.dumps(change.preview, ensure_ascii=False)
        short = told if len(told) <= SHOWN_CHARACTERS_MAX else told[:SHOWN_CHARACTERS_MAX] + "…"
        table.add_row(
            change.step, change.kind, short if change.phase is not StepPhase.CANCELLED else "no longer needed"
        )
    console.print(table, markup=False)
    usage = finished.usage
    result = finished.error.model_dump() if finished.error is not None else finished.output
    console.print_json(json.dumps(result, ensure_ascii=False))
    seconds = (finished.finished_at - finished.started_at).total_seconds()
    console.print(
        f"{finished.status} in {seconds:.1f} s: {usage.model_calls} model calls, {usage.input_tokens} tokens read, "
        f"{usage.output_tokens} written.\nA model of 135 M parameters: the form is right, the words often not.\n",
        highlight=False,
    )

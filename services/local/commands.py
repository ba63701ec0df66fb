"""Owns the commands of the local stack: up, status, down."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from services.local import detached
from services.local import status as status_of
from services.local.display import Display, endpoints, table
from services.local.options import DEFAULT_DATA, Counts, Model, Options
from services.local.part import PartFailedError
from services.local.report import Report
from services.local.status import AlreadyRunningError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3

app = typer.Typer(
    no_args_is_help=True, help="Everything on this machine: Kafka, Postgres, a small model, the services."
)

Data = Annotated[Path, typer.Option(help="The folder of this stack: its data, logs and status.")]


@app.command(epilog="Example: penstock local up --detach --workers 2 --tasks my_package.tasks")
def up(
    data: Data = DEFAULT_DATA,
    *,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    model: Annotated[Model, typer.Option(help="The small real model, or a simulation for load tests.")] = "real",
    workers: Annotated[int, typer.Option(min=0, max=16, help="Processes of the worker.")] = 1,
    orchestrators: Annotated[int, typer.Option(min=0, max=16, help="Processes of the orchestrator.")] = 1,
    inferences: Annotated[int, typer.Option(min=0, max=16, help="Processes of inference.")] = 1,
    tool_executors: Annotated[int, typer.Option(min=0, max=16, help="Processes of the tool executor.")] = 1,
    tasks: Annotated[list[str] | None, typer.Option(help="A module with @task functions; may be repeated.")] = None,
    tools: Annotated[Path | None, typer.Option(exists=True, help="The file that names the MCP servers.")] = None,
    gateway_port: Annotated[int | None, typer.Option(min=1, max=65535, help="A fixed port for the gateway.")] = None,
) -> None:
    """Start everything, each part its own process; a second start reuses the data."""
    console = Console()
    running = status_of.read(data)
    if running.state != "stopped":
        console.print(f"Already {running.state} (supervisor {running.supervisor_pid}).", highlight=False)
        console.print(endpoints(running), highlight=False, soft_wrap=True)
        return
    options = Options(
        model=model,
        counts=Counts(worker=workers, orchestrator=orchestrators, inference=inferences, tool_executor=tool_executors),
        task_modules=tuple(tasks or ()),
        tool_servers=tools,
        gateway_port=gateway_port,
    )
    try:
        with Display(console) as display:
            if detach:
                detached.start(data, options, display.report)
            else:
                asyncio.run(_supervise(data, options, display.report, "error"))
    except (AlreadyRunningError, PartFailedError, detached.SupervisorFailedError) as error:
        typer.echo(f"penstock local up: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None


@app.command(epilog="Example: penstock local status --json | jq -r .bootstrap_servers")
def status(
    data: Data = DEFAULT_DATA,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what runs and where to connect; exit code 3 where nothing runs."""
    current = status_of.asked(status_of.read(data))
    if as_json:
        typer.echo(json.dumps(current.model_dump(mode="json"), indent=2))
    elif current.state == "stopped":
        typer.echo(f"Nothing runs in {current.data}. Start it with: penstock local up", err=True)
    else:
        console = Console()
        console.print(table(current))
        console.print(endpoints(current), highlight=False, soft_wrap=True)
    if current.state == "stopped":
        raise typer.Exit(EXIT_NOT_RUNNING)


@app.command(epilog="Example: penstock local down")
def down(data: Data = DEFAULT_DATA) -> None:
    """Stop everything and wait for it; the data stays."""
    try:
        stopped = detached.stop(data)
    except detached.SupervisorFailedError as error:
        typer.echo(f"penstock local down: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    typer.echo("Stopped." if stopped else f"Nothing runs in {data.resolve()}.")


@app.command(hidden=True)
def supervise(data: Annotated[Path, typer.Option()], options: Annotated[str, typer.Option()]) -> None:
    """What `up --detach` leaves behind."""
    try:
        chosen = Options.model_validate_json(options)
        asyncio.run(_supervise(data, chosen, detached.PipeReport(), "info"))
    except ValidationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_USAGE) from None
    except (AlreadyRunningError, PartFailedError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None


async def _supervise(data: Path, options: Options, report: Report, log_level: str) -> None:
    # Here, so that asking for the status does not load a broker's and a database's client.
    from penstock.runtime.telemetry import configure_logging
    from services.local.supervisor import Supervisor

    configure_logging("auto", log_level, service="local")  # to standard error; standard output is the report's
    await Supervisor(data, options, report).run()

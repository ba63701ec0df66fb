"""Runs the patterns on a local stack with a real, very small model: `python -m examples.patterns`."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.follow import NotVisibleError
from examples.machine import WrongStackError, machine
from examples.patterns.show import NAMES, TASK_MODULE, TOOL_SERVERS, run_pattern
from services.local.detached import SupervisorFailedError
from services.local.options import DEFAULT_DATA, Model, Options

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
PLAIN_WIDTH = 120

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: python -m examples.patterns routing agent_loop --package httpx")
def main(
    *,
    patterns: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(NAMES)}; all by default.")] = None,
    package: Annotated[str, typer.Option(help="The installed package they are about.")] = "aiokafka",
    model: Annotated[Model, typer.Option(help="The small real model, or a simulation.")] = "real",
    data: Annotated[Path, typer.Option(help="The folder of the local stack.")] = DEFAULT_DATA,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running afterwards.")] = False,
) -> None:
    """Run the five patterns and the agent loop, one workflow each, and show what each step did."""
    chosen = patterns or list(NAMES)
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        typer.echo(f"There is no pattern {unknown[0]!r}; there are: {', '.join(NAMES)}.", err=True)
        raise typer.Exit(EXIT_USAGE)
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    options = Options(model=model, task_modules=(TASK_MODULE,), tool_servers=TOOL_SERVERS)
    try:
        with machine(data, options, console, keep=keep) as system:
            ends = [
                asyncio.run(
                    run_pattern(system.bootstrap_servers, system.gateway_url, name, package, datetime.now(UTC), console)
                )
                for name in chosen
            ]
    except (WrongStackError, SupervisorFailedError, NotVisibleError) as error:
        typer.echo(f"patterns: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    raise typer.Exit(0 if all(end.status == "completed" for end in ends) else EXIT_FAILED)


if __name__ == "__main__":
    app(prog_name="python -m examples.patterns")

"""Runs the penstock command: of all its commands only the one that was asked for is imported."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import typer

from services.cli.failures import CommandError

HELP = """Durable LLM workflows on Kafka.

Works with no flags against the local stack of this folder (penstock local up), and against a cluster through
PENSTOCK_GATEWAY_URL and PENSTOCK_KAFKA_BOOTSTRAP_SERVERS.

Exit codes: 0 well; 1 the run failed or faults were found; 2 bad usage or input; 3 nothing answers; 130 Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: where it lives, what it is for. `function` None: the module's `app` holds several."""

    module: str
    purpose: str
    example: str
    function: str | None = None


COMMANDS = {
    "local": Entry("services.local.commands", "Everything on this machine: up, status, down.", "penstock local up"),
    "check": Entry("services.cli.commands.check", "Check a definition.", "penstock check audit.yaml", "check"),
    "publish": Entry(
        "services.cli.commands.publish", "Publish a definition.", "penstock publish audit.yaml", "publish"
    ),
    "alias": Entry("services.cli.commands.alias", "Aliases of versions: set, list.", "penstock alias list"),
    "test": Entry(
        "services.cli.commands.cases",
        "Run a workflow's tests, in virtual time.",
        "penstock test audit.yaml --trace",
        "run_tests",
    ),
    "run": Entry(
        "services.cli.commands.run", "Start a run.", "penstock run licence-audit --input @input.json --watch", "run"
    ),
    "runs": Entry("services.cli.commands.runs", "Runs: list, show, cancel, redrive.", "penstock runs list"),
    "dlq": Entry("services.cli.commands.dlq", "Dead letters: list, show, redrive.", "penstock dlq list"),
    "lag": Entry("services.cli.commands.reports", "How far groups are behind.", "penstock lag --all", "lag"),
    "costs": Entry(
        "services.cli.commands.costs",
        "What was used and what it cost, exports.",
        "penstock costs --by workflow,model --since 7d",
    ),
    "capacity": Entry(
        "services.cli.commands.capacity",
        "What room engines have, or what a load would need.",
        "penstock capacity --model llama-3.1-8b --gpu h200 --prompt 2000 --output 300 --rate 50",
        "capacity",
    ),
    "topics": Entry("services.cli.commands.registry", "All topics.", "penstock topics --json", "topics"),
    "schemas": Entry(
        "services.cli.commands.registry", "A topic's JSON Schema.", "penstock schemas run.requested", "schemas"
    ),
}


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the command that the arguments name; the others are there by name and purpose."""
    app = typer.Typer(
        name="penstock",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, entry in COMMANDS.items():
        epilog = f"Example: {entry.example}"
        if name != chosen:
            app.command(name, help=entry.purpose, epilog=epilog)(_nothing)
            continue
        module = import_module(entry.module)
        if entry.function is None:
            app.add_typer(module.app, name=name, epilog=epilog)
        else:
            app.command(name, epilog=epilog)(getattr(module, entry.function))
    return app


def main() -> None:
    """Exit codes are said in HELP."""
    arguments = sys.argv[1:]
    try:
        app_for(arguments)(arguments, prog_name="penstock")
    except CommandError as error:
        error.show()
        sys.exit(error.code)


def _nothing() -> None:
    """Stands in for a command that was not asked for."""


if __name__ == "__main__":
    main()

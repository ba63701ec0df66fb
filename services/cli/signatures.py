"""Owns what the command knows of tasks: the modules that register them, imported when they are named."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from penstock.workflow.task import Signature, signatures
from services.cli.failures import CommandError

TaskModules = Annotated[
    list[str] | None,
    typer.Option("--tasks", metavar="MODULE", help="A module that registers tasks; inputs are held to what they take."),
]


def known_tasks(modules: list[str] | None) -> dict[str, Signature] | None:
    """What the tasks of some modules take and give; None where no module is named. Raises CommandError.

    Modules are found as `python -m` finds them, from the present folder, too.
    """
    if not modules:
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # noqa: BLE001 - it is the user's code, and may raise anything
            raise CommandError(f"cannot import {module}: {type(error).__name__}: {error}") from None
    return signatures()

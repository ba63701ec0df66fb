"""Owns the local stack that an example runs on: the one that is there, or one started for it and stopped afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from services.local import detached
from services.local import status as status_of
from services.local.display import Display
from services.local.options import Options
from services.local.status import Status


class WrongStackError(RuntimeError):
    """The stack that runs cannot do the work; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running stack. `stays`: it goes on running afterwards."""

    bootstrap_servers: str
    gateway_url: str
    stays: bool


@contextmanager
def machine(data: Path, options: Options, console: Console, *, keep: bool) -> Iterator[Machine]:
    """A running stack. What was started here is stopped in the end unless it is to be kept."""
    found = status_of.read(data)
    if found.state != "stopped":
        _check(found, data, options)
        console.print(f"Using the stack that runs in {found.data}.", highlight=False, soft_wrap=True)
        yield _machine(found, stays=True)
        return
    try:
        started = _started(data, options, console)
    except BaseException:  # half a stack is of no use to anybody
        _stop(data, console)
        raise
    try:
        yield _machine(started, stays=keep)
    finally:
        if not keep:
            _stop(data, console)


def _machine(status: Status, *, stays: bool) -> Machine:
    if status.bootstrap_servers is None or status.gateway_url is None:
        raise WrongStackError(f"the stack in {status.data} does not say where its Kafka and its gateway are")
    return Machine(status.bootstrap_servers, status.gateway_url, stays)


def _started(data: Path, options: Options, console: Console) -> Status:
    console.print("Starting Kafka, Postgres, the model and the services on this machine …", highlight=False)
    with Display(console) as display:
        detached.start(data, options, display.report)
    return status_of.read(data)


def _check(found: Status, data: Path, options: Options) -> None:
    again = f"stop it with `penstock local down --data {data}` and run this again"
    if found.state != "running":
        raise WrongStackError(f"the stack in {found.data} is {found.state}: wait a moment and run this again")
    for module in options.task_modules:
        if module not in found.task_modules:
            raise WrongStackError(f"the stack in {found.data} runs without the tasks {module}: {again}")
    if options.model != found.model:
        raise WrongStackError(f"the stack in {found.data} runs with the {found.model} model: {again}")


def _stop(data: Path, console: Console) -> None:
    console.print("\nStopping what was started …", highlight=False)
    detached.stop(data)

"""Owns what a person sees while a stack starts, runs and stops: a live table, or plain lines where there is none."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.local.part import PartChange, PartState
from services.local.status import Status

STYLES = {
    PartState.WAITING: "dim",
    PartState.STARTING: "yellow",
    PartState.READY: "green",
    PartState.RESTARTING: "bold red",
    PartState.PAUSED: "magenta",
    PartState.STOPPED: "dim",
}


def table(status: Status) -> Table:
    """The parts of a stack and their states."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", "state", "pid", "port", "restarts", ""):
        grid.add_column(heading, overflow="fold")
    for name, part in status.parts.items():
        port = part.ports.get("port", part.ports.get("health_port", ""))
        grid.add_row(
            name,
            Text(part.state.value, STYLES[part.state]),
            str(part.pid or ""),
            str(port),
            str(part.restarts or ""),
            Text(part.detail, "dim"),
        )
    return grid


def endpoints(status: Status) -> str:
    """Where to connect, a line each."""
    rows = {
        "Kafka": status.bootstrap_servers,
        "gateway": status.gateway_url,
        "Postgres": status.postgres_url,
        "model": status.model_url,
        "data, logs": status.data,
    }
    return "\n".join(f"  {name:<11}{value}" for name, value in rows.items() if value)


class Display:
    """Follows one stack on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live: Live | None = None
        self._status: Status | None = None
        self._announced = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_live()

    def report(self, status: Status, change: PartChange | None) -> None:
        """Show a change."""
        self._status = status
        if change is not None:
            self._tell(change)
        if status.state == "running" and not self._announced:
            self._announced = True
            self._end_live()
            if self._console.is_terminal:
                self._console.print(table(status))
            self._console.print(f"\nReady after {time.monotonic() - self._began:.1f} s.", highlight=False)
            self._console.print(endpoints(status), highlight=False, soft_wrap=True)
        elif status.state == "stopping" and change is None:
            self._end_live()
            self._console.print("Stopping …", highlight=False)
        elif status.state == "stopped" and change is None:
            self._console.print("Stopped. Data stays in place for the next start.", highlight=False)

    def _tell(self, change: PartChange) -> None:
        if change.state is PartState.RESTARTING:
            self._line(f"{change.part} {change.detail}; its log ends with:")
            for line in change.lines:
                self._line(f"    {line}")
        elif self._live is None and (change.state is PartState.READY or not self._announced):
            self._line(f"{change.part}: {change.state.value} {change.detail}".rstrip())

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _picture(self) -> Group:
        seconds = Text(f"{time.monotonic() - self._began:5.1f} s", "dim")
        return Group(table(self._status), seconds) if self._status else Group(seconds)

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

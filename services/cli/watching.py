"""Owns watching a run: what its events add up to, shown while it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.live import Live
from rich.text import Text

from services.cli import output
from services.cli.door import Door, run_path
from services.cli.failures import EXIT_FAILED

DONE = frozenset({"completed", "failed", "cancelled"})
FRAMES_PER_SECOND = 8


@dataclass(slots=True)
class Progress:
    """What a run's `progress` events come to."""

    phases: dict[str, str] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    status: str = "requested"
    newest: str = ""

    def add(self, body: Mapping[str, Any]) -> None:
        """One event's body."""
        for change in body.get("changes", []):
            self.phases[change["step"]] = change["phase"]
            self.newest = f"{change['step']} {change['phase']}"
        self.usage = body.get("usage") or self.usage
        self.status = body.get("status", self.status)

    @property
    def done(self) -> int:
        """Steps that have ended, one way or another."""
        return sum(phase in DONE for phase in self.phases.values())

    def line(self, run_id: str) -> str:
        """All of it in one line."""
        tokens = self.usage.get("input_tokens", 0) + self.usage.get("output_tokens", 0)
        cost = self.usage.get("cost") or {"amount": "0", "currency": "USD"}
        parts = (
            f"{run_id} {self.status}",
            f"{self.done}/{len(self.phases)} steps",
            f"{tokens} tokens",
            f"{cost['amount']} {cost['currency']}",
            self.newest,
        )
        return "  ".join(part for part in parts if part)


def watch(door: Door, run_id: str, tenant: str, *, as_json: bool) -> None:
    """Shows a run until it ends, then its output. Exit code 1 where it did not complete."""
    progress = Progress()
    ending: Mapping[str, Any] = {}
    with Live(console=output.error_console, refresh_per_second=FRAMES_PER_SECOND, transient=False) as live:
        for event in door.events(f"{run_path(run_id)}/events", tenant):
            if event.name == "finished":
                ending = event.data
            else:
                progress.add(event.data)
                text = "".join(character if character.isprintable() else "·" for character in progress.line(run_id))
                live.update(Text(text))
    if as_json:
        output.as_json(ending)
    elif ending.get("status") == "completed":
        output.console.print_json(data=ending.get("output"))
    else:
        error = ending.get("error") or {}
        where = f" at {error['step']}" if error.get("step") else ""
        said = f"{ending.get('status', 'unknown')}{where}: {error.get('code', '')}: {error.get('message', '')}"
        output.error_console.print(output.shown(said), style="red", highlight=False)
    if ending.get("status") != "completed":
        raise typer.Exit(EXIT_FAILED)

"""Owns watching a run: what its events add up to, shown while it goes on."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.live import Live
from rich.text import Text

from services.cli import output
from services.cli.door import Door, run_path
from services.cli.failures import EXIT_FAILED, CommandError

DONE = frozenset({"completed", "failed", "cancelled"})
FRAMES_PER_SECOND = 8
SPEAKERS_MAX = 4
"""Answers that are shown side by side while they come."""
LINES_MAX = 6
LINE_CHARACTERS = 160


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


@dataclass(slots=True)
class Speech:
    """What steps say while they say it: the newest lines of the answers that have not ended yet."""

    texts: dict[str, str] = field(default_factory=dict)
    """By request, in the order in which they began."""
    steps: dict[str, str] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any]) -> None:
        """One `piece` event's body: it replaces what was at its place."""
        request = piece["request_id"]
        if piece.get("final"):
            self.texts.pop(request, None)
            return
        self.steps[request] = piece["step"]
        self.texts[request] = self.texts.get(request, "")[: piece["from_character"]] + piece["text"]

    def lines(self) -> list[str]:
        """For each answer its step, and the end of what it has said."""
        shown = []
        for request, text in list(self.texts.items())[-SPEAKERS_MAX:]:
            shown.append(f"{self.steps[request]}:")
            shown += ["  " + line[-LINE_CHARACTERS:] for line in text.splitlines()[-LINES_MAX:]]
        return [_printable(line) for line in shown]


class Screen:
    """What is shown while a run goes on; rich asks for it again and again."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._lock = threading.Lock()
        self.progress = Progress()
        self._speech = Speech()
        self._over = False

    def __rich__(self) -> Text:
        with self._lock:
            speech = [] if self._over else self._speech.lines()
            return Text("\n".join([_printable(self.progress.line(self._run_id)), *speech]))

    def hear(self, door: Door, tenant: str) -> None:
        """Follows the answers until the run's end. What cannot be heard is not shown, and nothing else."""
        try:
            for event in door.events(f"{run_path(self._run_id)}/stream", tenant, end="ended"):
                with self._lock:
                    if event.name == "piece":
                        self._speech.add(event.data)
        except CommandError:
            return

    def add(self, body: Mapping[str, Any]) -> None:
        """One `progress` event's body."""
        with self._lock:
            self.progress.add(body)

    def close(self) -> None:
        """What was said is over: the output says it."""
        with self._lock:
            self._over = True


def watch(door: Door, run_id: str, tenant: str, *, as_json: bool) -> None:
    """Shows a run until it ends, then its output. Exit code 1 where it did not complete."""
    screen = Screen(run_id)
    ending: Mapping[str, Any] = {}
    with Live(screen, console=output.error_console, refresh_per_second=FRAMES_PER_SECOND, transient=False):
        if output.error_console.is_terminal:
            threading.Thread(target=screen.hear, args=(door.beside(), tenant), daemon=True).start()
        for event in door.events(f"{run_path(run_id)}/events", tenant):
            if event.name == "finished":
                ending = event.data
            else:
                screen.add(event.data)
        screen.close()
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


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in line)

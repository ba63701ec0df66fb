"""Owns what commands print: tables for people, JSON for machines; text from outside cannot steer the terminal."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDTH_OF_A_FILE = 240
"""What is not a terminal has no width; nothing is folded that somebody may want to search."""

console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
error_console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH_OF_A_FILE)

STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "running": "blue", "requested": "dim"}


def as_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[str] = (), empty: str) -> None:
    """A table, or what to say instead."""
    if not rows:
        console.print(empty, style="dim", highlight=False)
        return
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        last = column == columns[-1]
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold", no_wrap=not last)
    for row in rows:
        made.add_row(*(shown(value) for value in row))
    console.print(made)


def shown(value: Any) -> str:
    """A value as it may stand on a terminal: no markup, no control characters."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape("".join(character if character.isprintable() else "·" for character in text))


def status(value: str) -> str:
    """A status in its colour."""
    return f"[{STYLES.get(value, 'default')}]{escape(value)}[/]"


def short_time(text: str | None) -> str:
    """A time without what a person skips."""
    return "" if text is None else text[:19].replace("T", " ")

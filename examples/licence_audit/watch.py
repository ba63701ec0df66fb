"""Owns what a person sees while the audit runs: a live bar, or a plain line now and then where there is no terminal."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from examples.licence_audit.progress import Progress

RATE_SECONDS: Final = 20.0
"""Tokens per second are those of the last moments, so that a slow beginning is forgotten."""
LINE_SECONDS: Final = 5.0


class Watch:
    """Shows one audit on a console."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._samples: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self._began = time.monotonic()
        self._said_at = 0.0
        self._said = -1
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("[bold]documents"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._bar.add_task(self._figures(), total=self._progress.total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, failures: list[str]) -> None:
        """Show how far it is, and what has just failed."""
        self._sample()
        for failure in failures:
            self._console.print(failure, style="red", highlight=False, markup=False, soft_wrap=True)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._progress.ended, description=self._figures())
        elif self._is_news():
            self._said, self._said_at = self._progress.ended, time.monotonic()
            elapsed = time.monotonic() - self._began
            line = f"{self._progress.ended}/{self._progress.total} documents, {self._figures()}, {elapsed:.0f} s"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _is_news(self) -> bool:
        finished = self._progress.ended == self._progress.total
        waited = time.monotonic() - self._said_at >= LINE_SECONDS
        return self._progress.ended != self._said and (finished or waited)

    def _sample(self) -> None:
        now = time.monotonic()
        self._samples.append((now, self._progress.tokens))
        while len(self._samples) > 2 and now - self._samples[1][0] > RATE_SECONDS:
            del self._samples[0]

    def _figures(self) -> str:
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        rate = (after - before) / (ended - began) if ended - began > 1.0 else 0.0
        return f"{rate:.0f} tokens/s, {self._progress.tokens} tokens, {self._progress.cost:.6f} USD"

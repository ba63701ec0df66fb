"""Owns `penstock test`: a workflow's cases are rehearsed, and what is not as expected is shown with what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.failures import EXIT_FAILED, CommandError
from services.cli.settings import AsJson
from services.rehearsal.durations import said
from services.rehearsal.reading import ReadyCase, UnreadableError, found, read_script
from services.rehearsal.rehearsal import Happened, rehearse
from services.rehearsal.replay import recorded, recorded_name
from services.rehearsal.verdict import Mismatch, mismatches

TRACE_LINES_MAX = 60
VALUE_CHARACTERS_MAX = 400


@dataclass(frozen=True, slots=True)
class Result:
    """One case: what happened, and what of it was not expected."""

    file: Path
    ready: ReadyCase
    happened: Happened
    mismatches: list[Mismatch]

    @property
    def passed(self) -> bool:
        """Whether all is as expected."""
        return not self.mismatches and self.happened.stopped is None


@dataclass(frozen=True, slots=True)
class Broken:
    """A test file that cannot be run."""

    file: Path
    error: UnreadableError


def run_tests(
    path: Annotated[Path, typer.Argument(help="A *.test.yaml, a definition with one beside it, or a folder.")] = Path(),
    *,
    case: Annotated[str | None, typer.Option("--case", "-k", help="Only cases with this in their name.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show what happened in cases that passed, too.")] = False,
    record: Annotated[Path | None, typer.Option(help="Write each case's history into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a workflow's tests: the real engine, scripted answers, virtual time; nothing is started.

    Cases stand beside the workflow, in `<workflow>.test.yaml`. Exit code 1 where one is not as expected.
    """
    results, broken = _rehearsed(path, case)
    if record is not None:
        _record(record, results)
    if as_json:
        output.as_json(_document(results, broken))
    else:
        _show(results, broken, trace=trace)
    if broken or not all(result.passed for result in results):
        raise typer.Exit(EXIT_FAILED)


def _rehearsed(path: Path, wanted: str | None) -> tuple[list[Result], list[Broken]]:
    results: list[Result] = []
    broken: list[Broken] = []
    try:
        files = found(path)
    except UnreadableError as error:
        raise CommandError(str(error)) from None
    for file in files:
        try:
            script = read_script(file)
        except UnreadableError as error:
            broken.append(Broken(file, error))
            continue
        for ready in script.cases:
            if wanted is None or wanted in ready.case.name:
                happened = rehearse(ready.definition, ready.case, script.script.answers, ready.children)
                results.append(Result(file, ready, happened, mismatches(ready.case.expect, happened)))
    if not results and not broken:
        hint = (
            "write cases beside the workflow, in a file such as audit.test.yaml beside audit.yaml"
            if wanted is None
            else ""
        )
        raise CommandError(f"there are no cases in {path}" + (f" with `{wanted}`" if wanted else ""), hint=hint)
    return results, broken


def _record(folder: Path, results: Sequence[Result]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            name = recorded_name(result.file, result.ready.case.name)
            text = recorded(result.ready.definition, result.happened, result.ready.case.name)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write into {folder}: {error}") from None


def _show(results: Sequence[Result], broken: Sequence[Broken], *, trace: bool) -> None:
    for each in broken:
        output.console.print(f"[red]✗[/] {output.shown(str(each.error))}", highlight=False)
        for fault in each.error.faults:
            output.console.print(f"    {output.shown(fault)}", highlight=False)
    if results:
        output.table(
            ("", "file", "case", "status", "calls", "attempts", "tokens", "cost", "virtual time"),
            [_row(result) for result in results],
            numbers=("calls", "attempts", "tokens", "cost"),
            empty="",
        )
    for result in results:
        if trace or not result.passed:
            _show_case(result)
    failed = len(broken) + sum(not result.passed for result in results)
    passed = sum(result.passed for result in results)
    style = "red" if failed else "green"
    output.console.print(f"\n{passed} passed" + (f", {failed} failed" if failed else ""), style=style, highlight=False)


def _row(result: Result) -> tuple[Any, ...]:
    run, duration_ms = result.happened.run, result.happened.duration_ms
    return (
        "ok" if result.passed else "FAILED",
        str(result.file),
        result.ready.case.name,
        run.status if result.happened.stopped is None else "stopped",
        run.usage.model_calls,
        len(result.happened.asked),
        run.usage.input_tokens + run.usage.output_tokens,
        f"{run.usage.cost:f}",
        "" if duration_ms is None else said(duration_ms),
    )


def _show_case(result: Result) -> None:
    print_ = output.console.print
    print_(f"\n{output.shown(str(result.file))}: {output.shown(result.ready.case.name)}", style="bold", highlight=False)
    stopped = result.happened.stopped
    if stopped is not None:
        print_(f"  {output.shown(str(stopped))}", style="red", highlight=False)
        for line in stopped.advice.splitlines():
            print_(f"  {output.shown(line)}", highlight=False)
    for mismatch in result.mismatches:
        print_(f"  {output.shown(mismatch.what)}", style="red", highlight=False)
        print_(f"    - expected  {_value(mismatch.expected)}", style="green", highlight=False)
        print_(f"    + happened  {_value(mismatch.happened)}", style="red", highlight=False)
    if result.happened.unused and not result.passed:
        unused = ", ".join(f"`{pattern}`" for pattern in result.happened.unused)
        print_(f"  answers that nothing asked for: {output.shown(unused)}", style="yellow", highlight=False)
    print_("  what happened:", style="dim")
    lines = _trace(result.happened)
    if len(lines) > TRACE_LINES_MAX:
        half = TRACE_LINES_MAX // 2
        lines = [*lines[:half], f"  … {len(lines) - 2 * half} more lines (--json shows all)", *lines[-half:]]
    for line in lines:
        print_(f"  {output.shown(line)}", style="dim", highlight=False)


def _value(value: Any) -> str:
    text = output.shown(value if value is not None else "null")
    return text if len(text) <= VALUE_CHARACTERS_MAX else text[:VALUE_CHARACTERS_MAX] + "…"


def _trace(happened: Happened) -> list[str]:
    """What each event did to the steps, with its time."""
    lines: list[str] = []
    for entry in happened.entries:
        told = entry.get("told", [])
        lines.extend(f"{entry['at'] if not index else '':>16}  {line}" for index, line in enumerate(told))
        if "ended" in entry:
            error = entry["ended"].get("error")
            why = "" if error is None else f": {error['code']}: {error['message']}"
            lines.append(f"{'' if told else entry['at']:>16}  the run {entry['ended']['status']}{why}")
    return lines


def _document(results: Sequence[Result], broken: Sequence[Broken]) -> dict[str, Any]:
    failed = len(broken) + sum(not result.passed for result in results)
    return {
        "passed": sum(result.passed for result in results),
        "failed": failed,
        "cases": [_case(result) for result in results],
        "unreadable": [
            {"file": str(each.file), "message": str(each.error), "faults": list(each.error.faults)} for each in broken
        ],
    }


def _case(result: Result) -> dict[str, Any]:
    happened = result.happened
    run = happened.run
    return {
        "file": str(result.file),
        "name": result.ready.case.name,
        "passed": result.passed,
        "mismatches": [
            {"what": each.what, "expected": each.expected, "happened": each.happened} for each in result.mismatches
        ],
        "unused_answers": happened.unused,
        "stopped": None
        if happened.stopped is None
        else {"message": str(happened.stopped), "advice": happened.stopped.advice},
        "run": {
            "status": run.status,
            "output": run.output,
            "error": None if run.error is None else run.error.model_dump(mode="json", exclude_none=True),
            "duration_ms": happened.duration_ms,
            "usage": run.usage.to_message().model_dump(mode="json"),
        },
        "history": happened.entries,
    }

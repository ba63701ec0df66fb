"""Owns the comparison of what happened with what was expected."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.messages import InferenceRequested, TaskRequested, ToolRequested
from penstock.workflow.schemas import json_path
from services.orchestrator.core.children import ChildRequested
from services.orchestrator.core.state import Request
from services.rehearsal.bounds import Bound
from services.rehearsal.durations import said
from services.rehearsal.patterns import matches
from services.rehearsal.rehearsal import Happened
from services.rehearsal.script import Expectation

ABSENT: Final = "(absent)"
KINDS: Final[dict[str, tuple[type, ...]]] = {
    "model": (InferenceRequested,),
    "tool": (ToolRequested,),
    "task": (TaskRequested,),
    "run": (ChildRequested,),
    "all": (InferenceRequested, ToolRequested, TaskRequested, ChildRequested),
}
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as expected: what, and both sides as they would be written."""

    what: str
    expected: Any
    happened: Any


def mismatches(expect: Expectation, happened: Happened) -> list[Mismatch]:
    """Everything that is not as expected; nothing where the rehearsal did not come to its end."""
    if happened.stopped is not None:
        return []
    return [*_end(expect, happened), *_path(expect, happened), *_amounts(expect, happened)]


def _end(expect: Expectation, happened: Happened) -> Iterator[Mismatch]:
    run = happened.run
    status = expect.status or ("failed" if expect.error is not None else "completed")
    if run.status != status:
        why = "" if run.error is None else f" ({run.error.code}: {run.error.message})"
        yield Mismatch("status", status, run.status + why)
        return
    if "output" in expect.model_fields_set:
        yield from _differences(expect.output, run.output, ("output",), part=False)
    if "output_has" in expect.model_fields_set:
        yield from _differences(expect.output_has, run.output, ("output",), part=True)
    if expect.error is not None and run.error is not None:
        if expect.error.code not in (None, run.error.code):
            yield Mismatch("error.code", expect.error.code, run.error.code)
        if expect.error.step is not None and not matches(expect.error.step, run.error.step or ""):
            yield Mismatch("error.step", expect.error.step, run.error.step)
        if expect.error.message is not None and expect.error.message not in run.error.message:
            yield Mismatch("error.message", f"…{expect.error.message}…", run.error.message)


def _path(expect: Expectation, happened: Happened) -> Iterator[Mismatch]:
    paths = list(dict.fromkeys(path for entry in happened.entries for path in entry.get("rows", ())))
    shown = ", ".join(paths) or "nothing ran"
    for pattern in expect.ran:
        if not any(matches(pattern, path) for path in paths):
            yield Mismatch("ran", pattern, shown)
    for pattern in expect.not_ran:
        found = [path for path in paths if matches(pattern, path)]
        if found:
            yield Mismatch("not_ran", pattern, ", ".join(found))
    first = [next((n for n, path in enumerate(paths) if matches(pattern, path)), None) for pattern in expect.order]
    positions = [position for position in first if position is not None]
    if len(positions) < len(first) or positions != sorted(positions):
        yield Mismatch("order", " → ".join(expect.order), " → ".join(paths))
    for pattern, choice in expect.choices.items():
        steps = [step for path, step in sorted(happened.run.steps.items()) if matches(pattern, path)]
        if not steps:
            yield Mismatch(f"choices.{pattern}", choice, shown)
        for step in steps:
            if step.output != choice:
                yield Mismatch(f"choices.{step.path}", choice, step.output)


def _amounts(expect: Expectation, happened: Happened) -> Iterator[Mismatch]:
    usage = happened.run.usage
    for pattern, bound in expect.calls.items():
        count = sum(_is_of(pattern, asked.request) for asked in happened.asked)
        yield from _within(f"calls.{pattern}", bound, count)
    for pattern, bound in expect.attempts.items():
        steps = [step for path, step in sorted(happened.run.steps.items()) if matches(pattern, path)]
        for step in steps:
            yield from _within(f"attempts.{step.path}", bound, step.attempt)
        if not steps:
            yield Mismatch(f"attempts.{pattern}", bound.written, "no such step ran")
    if expect.tokens is not None:
        yield from _within("tokens", expect.tokens, usage.input_tokens + usage.output_tokens)
    if expect.cost is not None and not expect.cost.holds(usage.cost):
        yield Mismatch("cost", expect.cost.written, f"{usage.cost:f} {usage.currency}")
    duration_ms = happened.duration_ms
    if expect.duration is not None and (duration_ms is None or not expect.duration.holds(duration_ms)):
        yield Mismatch("duration", expect.duration.written, "no end" if duration_ms is None else said(duration_ms))


def _is_of(pattern: str, request: Request | ChildRequested) -> bool:
    kinds = KINDS.get(pattern)
    return isinstance(request, kinds) if kinds is not None else matches(pattern, request.step)


def _within(what: str, bound: Bound, happened: int) -> Iterator[Mismatch]:
    if not bound.holds(happened):
        yield Mismatch(what, bound.written, happened)


def _differences(expected: Any, happened: Any, path: tuple[str | int, ...], *, part: bool) -> Iterator[Mismatch]:
    """Where two values differ; with `part` an object may have more fields than expected."""
    if isinstance(expected, dict) and isinstance(happened, dict):
        names = [*expected, *([] if part else [name for name in happened if name not in expected])]
        for name in names:
            inner = expected.get(name, _NOTHING), happened.get(name, _NOTHING)
            yield from _differences(*inner, (*path, name), part=part)
    elif isinstance(expected, list) and isinstance(happened, list):
        for index in range(max(len(expected), len(happened))):
            one = expected[index] if index < len(expected) else _NOTHING
            other = happened[index] if index < len(happened) else _NOTHING
            yield from _differences(one, other, (*path, index), part=part)
    elif not _same(expected, happened):
        what = json_path(path).removeprefix("$.")
        yield Mismatch(what, *(ABSENT if value is _NOTHING else value for value in (expected, happened)))


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(one == other)

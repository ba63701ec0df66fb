"""Owns the checks of the steps that ask nobody."""

from typing import Any, Final

from penstock.workflow.checks.checker import Checker, Place
from penstock.workflow.expressions import Compiled, ExpressionError, compile_value
from penstock.workflow.faults import Path
from penstock.workflow.gates import Gate, Sleep, Until, instant_ms
from penstock.workflow.shapes import NULL, Shape, said, types_of

_NO_SCOPE: Final[dict[str, Any]] = {}


def check_gate(checker: Checker, block: Gate, place: Place) -> Shape:
    """What must hold is an expression, what is said where it does not a template."""
    at = (*place.path, "check")
    compiled = checker.expression(block.check, at, place.scope)
    if compiled is not None and not compiled.references:
        # A constant `false` is how a case refuses what it stands for; one that cannot be evaluated is a mistake.
        _evaluated(checker, compiled, at)
    checker.text(block.message, (*place.path, "message"), place.scope)
    return {"type": "boolean"}


def check_sleep(checker: Checker, block: Sleep, place: Place) -> Shape:
    """Seconds are a number within their cap and the run's deadline, a time is one."""
    at = (*place.path, "sleep")
    match block.sleep:
        case Until(until=source):
            _check_until(checker, source, (*at, "until"), place)
        case str() as source:
            _check_given(checker, source, at, block, place)
        case seconds:
            _check_seconds(checker, seconds, at, block)
    return NULL


def _check_seconds(checker: Checker, seconds: float, at: Path, block: Sleep) -> None:
    if seconds > block.sleep_seconds_max:
        text = f"it sleeps for {seconds:g} s, its sleep_seconds_max is {block.sleep_seconds_max:g}"
        checker.add(at, text, "raise sleep_seconds_max")
    if seconds >= checker.deadline_seconds:
        text = f"it sleeps for {seconds:g} s, a run's deadline is {checker.deadline_seconds:g} s after its start"
        checker.add(at, text, "raise the workflow's deadline_seconds")


def _check_given(checker: Checker, source: str, at: Path, block: Sleep, place: Place) -> None:
    shape = checker.value(source, at, place.scope)
    compiled = _constant(source)
    if compiled is not None:
        value = _evaluated(checker, compiled, at)
        if type(value) in (int, float):
            _check_seconds(checker, value, at, block)
            if value < 0:
                checker.add(at, f"{value:g} s is less than no time")
    types = types_of(shape)
    if types and not types & {"number", "integer"}:
        checker.add(at, f"a sleep is a number of seconds, this is {said(shape)}", "seconds, or `{until: time}`")


def _check_until(checker: Checker, source: str, at: Path, place: Place) -> None:
    shape = checker.value(source, at, place.scope)
    types = types_of(shape)
    if types and "string" not in types:
        checker.add(at, f"a time is text in RFC 3339, this is {said(shape)}")
        return
    compiled = _constant(source)
    value = None if compiled is None else _evaluated(checker, compiled, at)
    if isinstance(value, str):
        try:
            instant_ms(value)
        except ValueError as error:
            checker.add(at, str(error))


def _constant(source: str) -> Compiled | None:
    """The template where it takes nothing from its scope."""
    try:
        compiled = compile_value(source)
    except ExpressionError:
        return None
    return None if compiled.references else compiled


def _evaluated(checker: Checker, compiled: Compiled, at: Path) -> Any:
    """The value of what takes nothing from its scope; None and a fault where it has none."""
    try:
        return compiled(_NO_SCOPE.__getitem__)
    except ExpressionError as error:
        checker.add(at, str(error))
        return None

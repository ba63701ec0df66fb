"""Owns the steps that ask nobody: the gate that must hold, the sleep."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, StringConstraints, Tag

from penstock.workflow.parts import Expression, Identifier, Part, Template

YEAR_SECONDS: Final = 31_536_000
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Gate(Part):
    """A condition that must hold, or the block around it fails with `check_failed`. The output is true.

    `message` is what the failure says; left out, it names the expression.
    """

    id: Identifier
    check: Expression
    message: Template = ""


class Until(Part):
    """A time, RFC 3339 with its offset (`2026-01-31T08:00:00Z`). One that has passed is no sleep at all."""

    until: Annotated[str, StringConstraints(min_length=1, max_length=4096)]


def _kind_of_sleep(value: Any) -> str | None:
    match value:
        case bool():
            return None
        case int() | float():
            return "seconds"
        case str():
            return "template"
        case dict() | Until():
            return "until"
        case _:
            return None


class Sleep(Part):
    """Does nothing for so many seconds, or until a time: a row that the run's alarm wakes. The output is null."""

    id: Identifier
    sleep: Annotated[
        Annotated[float, Field(ge=0, le=YEAR_SECONDS, allow_inf_nan=False), Tag("seconds")]
        | Annotated[Template, Tag("template")]
        | Annotated[Until, Tag("until")],
        Discriminator(
            _kind_of_sleep,
            custom_error_type="sleep_kind",
            custom_error_message="a sleep is seconds, a template that gives seconds, or `{until: time}`",
        ),
    ]
    sleep_seconds_max: Annotated[float, Field(gt=0, le=YEAR_SECONDS, allow_inf_nan=False)] = 2_592_000.0
    """What a template may give at most; a longer sleep fails with `sleep_too_long`."""


def instant_ms(text: str) -> int:
    """A time in RFC 3339 as milliseconds since 1970 UTC. Raises ValueError for what is none, or has no offset."""
    if not _RFC_3339.fullmatch(text):
        raise ValueError(f"`{text[:80]}` is not a time in RFC 3339, as 2026-01-31T08:00:00Z")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"`{text[:80]}` is not a time: {error}") from None
    return round((moment - _BEGINNING).total_seconds() * 1000)

"""Owns reading a moment on the command line: RFC 3339, or an age such as 7d, 12h, 30m."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from services.cli.failures import CommandError

UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE: Final = re.compile(r"(\d{1,5})([mhdw])")


def moment(text: str | None, option: str, now: datetime | None = None) -> str | None:
    """As RFC 3339 in UTC; None stays None. Raises CommandError."""
    if text is None:
        return None
    age = _AGE.fullmatch(text.strip())
    if age is not None:
        before = timedelta(**{UNITS[age[2]]: int(age[1])})
        return ((now or datetime.now(UTC)) - before).isoformat()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is no moment", hint="an age (7d, 12h, 30m, 2w) or RFC 3339") from None
    return (at.replace(tzinfo=UTC) if at.tzinfo is None else at).isoformat()

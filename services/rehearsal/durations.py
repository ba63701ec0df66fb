"""Owns how spans of virtual time are written: `3w`, `2d 4h`, `1.5s`, `250ms`; a bare number is seconds."""

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

UNITS_MS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
DURATION_MS_MAX: Final = 100 * 366 * UNITS_MS["d"]
"""Virtual time ends after a century: dates end in the year 9999."""

_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|w|d|h|m|s)\s*")


def milliseconds(value: Any) -> int:
    """A duration in milliseconds. Raises ValueError for what is none."""
    if isinstance(value, str):
        text = value.strip()
        parts = list(_PART.finditer(text))
        if not parts or "".join(part.group() for part in parts) != text:
            raise ValueError(f"`{value[:40]}` is no duration; write it as 3w, 2d 4h, 90s or 250ms")
        total_ms = round(sum(float(part.group(1)) * UNITS_MS[part.group(2)] for part in parts))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        total_ms = round(value * 1_000)
    else:
        raise ValueError("a duration is written as 3w, 2d 4h, 90s or 250ms")  # noqa: TRY004  # pydantic translates ValueError only
    if not 0 <= total_ms <= DURATION_MS_MAX:
        raise ValueError(f"`{value}` is not between nothing and a hundred years")
    return total_ms


def said(duration_ms: int) -> str:
    """A duration to the millisecond, as `milliseconds` reads it."""
    parts, left_ms = [], duration_ms
    for unit, size_ms in UNITS_MS.items():
        if unit in ("s", "ms"):
            break
        count, left_ms = divmod(left_ms, size_ms)
        if count:
            parts.append(f"{count}{unit}")
    if left_ms or not parts:
        parts.append(f"{left_ms / 1_000:g}s" if left_ms >= 1_000 or not left_ms else f"{left_ms}ms")
    return " ".join(parts)


DurationMs = Annotated[int, BeforeValidator(milliseconds)]
"""Milliseconds, written as a duration."""

"""Owns how a test names steps: by the tail of their path, with `*` for any part and any index.

`read` is every step of that id; `documents[3]/document/read` that of the fourth document; `documents[*]/**/read` that
of each. A part without an index stands for all of its indices. A leading `/` names the path from its root on.
"""

import re
from functools import lru_cache
from typing import Final

_PART: Final = re.compile(r"(?P<name>[a-z0-9_*]+)(?P<index>\[(?:\*|[0-9]+)\])?")


class PatternError(ValueError):
    """What is no pattern."""


def matches(pattern: str, path: str) -> bool:
    """Whether a step's path is one that the pattern names. Raises PatternError."""
    return compiled(pattern).fullmatch(f"/{path}") is not None


@lru_cache(maxsize=4_096)
def compiled(pattern: str) -> "re.Pattern[str]":
    """The pattern as an expression over `/` and a path. Raises PatternError."""
    anchored = pattern.startswith("/")
    parts = ["(?:/[^/]+)*" if part == "**" else "/" + _part(part, pattern) for part in pattern.strip("/").split("/")]
    return re.compile(("" if anchored else "(?:/[^/]+)*") + "".join(parts))


def _part(part: str, pattern: str) -> str:
    match = _PART.fullmatch(part)
    if match is None:
        raise PatternError(
            f"`{pattern[:80]}` names no step; write it as read, documents[3]/read or documents[*]/**/read"
        )
    name = re.escape(match["name"]).replace(r"\*", r"[^/\[]*")
    index = match["index"]
    if index is None:
        return name + r"(?:\[[0-9]+\])?"
    return name + (r"\[[0-9]+\]" if index == "[*]" else re.escape(index))

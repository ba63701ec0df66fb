"""Owns the one step of the pattern examples that needs no model: what an installed package says about itself."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final

from pydantic import BaseModel

from penstock.workflow.task import Failed, task

SUMMARY_CHARACTERS_MAX: Final = 500
TEXT_CHARACTERS_MAX: Final = 1_200
"""What a model of 135 million parameters reads in a few seconds on a CPU."""
_MARKUP: Final = re.compile(r"(?m)^\s*(?:\.\. |:\w+:|!?\[|<|=+$|-+$|~+$|\|).*$")
_BLANK_LINES: Final = re.compile(r"\n{3,}")


class Described(BaseModel):
    """A package as its metadata describes it. `text` is the beginning of its description, without badges."""

    name: str
    version: str
    summary: str
    text: str


@task(name="packages.describe")
def describe(package: str) -> Described:
    """Name, version, summary and the beginning of the description of an installed package."""
    try:
        declared = metadata(package)
    except PackageNotFoundError:
        raise Failed("package_missing", f"{package} is not installed where this worker runs") from None
    body = declared.json.get("description", "")
    text = _BLANK_LINES.sub("\n\n", _MARKUP.sub("", body if isinstance(body, str) else "")).strip()
    return Described(
        name=declared["Name"],
        version=declared["Version"],
        summary=(declared["Summary"] or "")[:SUMMARY_CHARACTERS_MAX],
        text=text[:TEXT_CHARACTERS_MAX] or (declared["Summary"] or "(no description)"),
    )

"""Owns the reading of the audit's workflow file."""

from pathlib import Path
from typing import Final

from penstock.workflow.definition import Definition
from penstock.workflow.notation import load

WORKFLOW_FILE: Final = Path(__file__).with_name("workflow.yaml")


def definition() -> Definition:
    """The workflow. Raises NotationError, with lines, where the file is not sound."""
    return load(WORKFLOW_FILE.read_text(encoding="utf-8"), WORKFLOW_FILE.parent)

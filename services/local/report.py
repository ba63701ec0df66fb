"""Owns the shape in which a supervisor tells what happens to its stack."""

from collections.abc import Callable

from services.local.part import PartChange
from services.local.status import Status

Report = Callable[[Status, PartChange | None], None]
"""Told of every change: the whole status, and what changed."""

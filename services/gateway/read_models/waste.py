"""Owns which attempts were in vain, as far as a run's progress tells: replaced by another one, or of a step that ended.

An attempt whose usage says that it failed is in vain as well, and all of a run that did not complete: that is known
when the run ends (settling.py). What is here comes from changes alone: the order of topics does not matter.
"""

from typing import Annotated, Final
from uuid import UUID

import msgspec

from penstock.contracts.ids import request_id

RETRY: Final = 1
ABANDONED: Final = 2
FAILED_RUN: Final = 3

IN_VAIN: Final = frozenset({"cancelled", "failed"})
ATTEMPTS_MAX: Final = 1_000
"""More are not looked at: no definition allows them."""


class Change(msgspec.Struct, gc=False):
    """What is read of a step's change."""

    step: str
    phase: str
    attempt: Annotated[int, msgspec.Meta(ge=0, le=ATTEMPTS_MAX)] = 1


def wasted_by(run: UUID, change: Change) -> dict[tuple[UUID, UUID], int]:
    """The attempts that this change of a step makes vain."""
    step, attempt = change.step, change.attempt
    wasted = {(run, request_id(run, step, earlier)): RETRY for earlier in range(1, attempt)}
    if change.phase in IN_VAIN and attempt:
        wasted[run, request_id(run, step, attempt)] = ABANDONED if change.phase == "cancelled" else RETRY
    return wasted

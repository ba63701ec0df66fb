"""Owns which attempts were in vain, as far as a run's progress tells: replaced by another one, or of a step that ended.

An attempt whose usage says that it failed is in vain as well, and all of a run that did not complete: that is known
when the run ends (settling.py). What is here comes from changes alone: the order of topics does not matter.
"""

from typing import Any, Final
from uuid import UUID

from penstock.contracts.ids import request_id
from services.gateway.read_models.fields import MalformedRecordError

RETRY: Final = 1
ABANDONED: Final = 2
FAILED_RUN: Final = 3

IN_VAIN: Final = frozenset({"cancelled", "failed"})
ATTEMPTS_MAX: Final = 1_000
"""More are not looked at: no definition allows them."""


def wasted_by(run: UUID, change: dict[str, Any]) -> dict[tuple[UUID, UUID], int]:
    """The attempts that this change of a step makes vain."""
    step, attempt = change["step"], change.get("attempt", 1)
    if type(attempt) is not int or not 0 <= attempt <= ATTEMPTS_MAX:
        raise MalformedRecordError("$.changes[].attempt: expected a whole number from 0")
    wasted = {(run, request_id(run, step, earlier)): RETRY for earlier in range(1, attempt)}
    if change["phase"] in IN_VAIN and attempt:
        wasted[run, request_id(run, step, attempt)] = ABANDONED if change["phase"] == "cancelled" else RETRY
    return wasted

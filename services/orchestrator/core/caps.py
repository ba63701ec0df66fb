"""Owns blocks with caps: what everything below one may spend is an account of its own, within the run's."""

from penstock.workflow.parts import Caps
from services.orchestrator.core.accounts import Account, account_of
from services.orchestrator.core.compiler import as_budget
from services.orchestrator.core.frames import Frame
from services.orchestrator.core.turn import Turn


class CappedFrame(Frame):
    """An open block that may have caps."""

    __slots__ = ("_account", "_caps", "_run")

    def __init__(self, turn: Turn, caps: Caps | None, parent: Frame, slot: int, path: str) -> None:
        super().__init__(parent, slot, path, {})
        self._caps = None if caps is None else as_budget(caps)
        self._run = turn.run
        self._account: Account | None = None
        turn.live.accounted = turn.live.accounted or caps is not None

    def account(self) -> Account | None:
        """The block's account, where it has caps."""
        # Added up when it is first asked for: a restart of a thousand open blocks must not read all rows for each.
        if self._account is None and self._caps is not None:
            self._account = account_of(self._run, self._caps, self.path)
        return self._account

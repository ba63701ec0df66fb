"""Owns how branches run side by side: begun in order, never more at once than allowed, cancelled when not needed."""

from abc import ABC, abstractmethod

from services.orchestrator.core.frames import Answer, Failed, Frame, Succeeded
from services.orchestrator.core.turn import Turn


class BranchesFrame(Frame, ABC):
    """An open block of `count` branches. What they come to is the kinds' own: see `take` and `over`.

    The order in which branches ended is not in their rows, so `over` must say the same in whatever order they are
    taken: a restored run takes them in the order of their slots.
    """

    __slots__ = ("_active", "_begun", "_max_concurrency", "count")

    def __init__(self, count: int, max_concurrency: int, parent: Frame, slot: int, path: str) -> None:
        super().__init__(parent, slot, path, {})
        self.count = count
        self._active = 0
        self._begun = 0
        self._max_concurrency = max_concurrency

    @abstractmethod
    def begin(self, turn: Turn, slot: int) -> Answer:
        """Enters the branch in `slot`."""

    @abstractmethod
    def take(self, slot: int, answer: Succeeded | Failed) -> None:
        """Keeps what a branch came to."""

    @abstractmethod
    def over(self, turn: Turn) -> Answer:
        """What the block comes to, where the branches that were taken decide it. Asked before any branch, too."""

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:
        """Makes room for the next branch."""
        self._active -= 1
        self.take(slot, answer)
        return self.go_on(turn)

    def go_on(self, turn: Turn) -> Answer:
        """Begins branches while they are needed and there is room."""
        over = self.over(turn)
        while over is None and self._begun < self.count and self._active < self._max_concurrency:
            slot = self._begun
            self._begun += 1
            answer = self._enter(turn, slot)
            if answer is None:
                self._active += 1
                continue
            self.take(slot, answer)
            over = self.over(turn)
        if over is not None and self._active:
            turn.cancel_below(self.path)
        return over

    def _enter(self, turn: Turn, slot: int) -> Answer:
        answer = self.begin(turn, slot)
        if isinstance(answer, Failed) and turn.redriven and turn.culprit == self.path:
            # The run failed because too many branches did: each begins again where it failed itself.
            turn.culprit = answer.failure.step
            answer = self.begin(turn, slot)
            turn.culprit = self.path
        return answer

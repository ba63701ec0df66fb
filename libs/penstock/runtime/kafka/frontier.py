"""Owns how far a partition is done: the lowest record still open, else the one after the last finished."""

from collections import OrderedDict


class Frontier:
    """Records begin in offset order (gaps are normal) and finish in any order."""

    __slots__ = ("_next", "_open", "committed")

    def __init__(self) -> None:
        self._open: OrderedDict[int, None] = OrderedDict()
        self._next: int | None = None
        self.committed: int | None = None
        """What was committed last."""

    def begin(self, offset: int) -> None:
        """A record was taken."""
        self._open[offset] = None
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """A record needs nothing more."""
        del self._open[offset]

    @property
    def open_count(self) -> int:
        """Records begun and not finished."""
        return len(self._open)

    @property
    def position(self) -> int | None:
        """What to commit: everything below it is finished. None before the first record."""
        return next(iter(self._open)) if self._open else self._next

    @property
    def uncommitted(self) -> int | None:
        """The position where it moved since the last commit."""
        position = self.position
        return None if position is None or position == self.committed else position

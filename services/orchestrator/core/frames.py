"""Owns what is derived from a run's step rows: the open blocks, the awaited leaves and when each is due.

Nothing here is stored. Entering a block builds its frame; `restore` enters the same blocks again, and leaves that
have a row answer from it, so a frame after a restart is the frame before it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.lookups import whole_in
from services.orchestrator.core.state import Step

if TYPE_CHECKING:
    from services.orchestrator.core.accounts import Account
    from services.orchestrator.core.contents import RunContents
    from services.orchestrator.core.leaf import LeafNode
    from services.orchestrator.core.turn import Turn
    from services.orchestrator.core.undo import UndoNode


@dataclass(slots=True)  # not frozen, as nothing that every event makes: that takes twice as long
class Succeeded:
    """A block ended with an output."""

    output: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A block ended with a failure."""

    failure: Failure


Answer = Succeeded | Failed | None
"""What a block says when it is entered or one of its branches ended; None: it is not over yet."""


class Frame(ABC):
    """An open block. `slot` is its place in its parent; `names` what it adds to the scope of the blocks in it."""

    __slots__ = ("names", "parent", "path", "slot")

    def __init__(self, parent: "Frame | None", slot: int, path: str, names: dict[str, Any]) -> None:
        self.parent = parent
        self.slot = slot
        self.path = path
        self.names = names

    @abstractmethod
    def child_ended(self, turn: "Turn", slot: int, answer: Succeeded | Failed) -> Answer:
        """Takes the answer of the branch in `slot` and goes on."""

    def account(self) -> "Account | None":
        """What the calls in this block count for, where the block has caps of its own."""
        return None

    def whole(self, value: Any) -> Any:
        """The value with what its references to blobs stand for. Raises ContentNeededError and ExpressionError."""
        return whole_in(self.find, value)

    def find(self, name: str) -> Any:
        """What a name stands for inside this block. Raises KeyError where nothing has that name."""
        frame: Frame | None = self
        while frame is not None:
            if name in frame.names:
                return frame.names[name]
            frame = frame.parent
        raise KeyError(name)


class Enclosure(Frame):
    """What only adds names to the scope: the run around its root block, an item of a map."""

    __slots__ = ()

    def child_ended(self, turn: "Turn", slot: int, answer: Succeeded | Failed) -> Answer:  # noqa: ARG002  # it only passes on
        """The end of what is inside is its own."""
        return answer


@dataclass(slots=True)
class LeafFrame:
    """A leaf whose answer is awaited, or whose next attempt is."""

    node: "LeafNode"
    step: Step
    parent: Frame
    slot: int


@dataclass(slots=True)
class Live:
    """The awaited leaves of a running run by path, their due times, and how much it may still ask for."""

    steps_max: int
    dispatched: int = 0
    """Attempts asked for so far, over all leaves."""
    deadline_ms: int = 0
    """How long the workflow gives a run."""
    account: "Account | None" = None
    """The run's, where it has a budget."""
    undos: "Mapping[str, UndoNode]" = field(default_factory=dict)
    """The undos of the workflow by the ids of their steps."""
    undo_ms: int = 0
    """How long undoing may take."""
    undo_order: int = 0
    """How many steps completed that have an undo."""
    settled_at_ms: int | None = None
    """While undoing waits for answers that may still come: until when."""
    contents: "RunContents | None" = None
    """What the run's references to blobs stand for."""
    attribution: "dict[str, Any]" = field(default_factory=dict)
    """What all requests of the run say of it."""
    accounted: bool = False
    """Whether the run or any of its blocks has an account."""
    leaves: dict[str, LeafFrame] = field(default_factory=dict)
    due: list[tuple[int, str]] = field(default_factory=list)
    """A heap of (time, path). Entries are never removed early: one that its step's `due_at_ms` contradicts is void."""

    def add(self, leaf: LeafFrame) -> None:
        """Awaits a leaf until its step's `due_at_ms`."""
        self.leaves[leaf.step.path] = leaf
        if leaf.step.due_at_ms is not None:
            heappush(self.due, (leaf.step.due_at_ms, leaf.step.path))

    def next_due(self) -> int | None:
        """When the first awaited leaf is due."""
        while self.due:
            due_at_ms, path = self.due[0]
            if self._holds(due_at_ms, path):
                return due_at_ms
            heappop(self.due)
        return None

    def pop_due(self, at_ms: int) -> LeafFrame | None:
        """The first leaf that is due at `at_ms`, each due time once."""
        while self.due and self.due[0][0] <= at_ms:
            due_at_ms, path = heappop(self.due)
            if self._holds(due_at_ms, path):
                return self.leaves[path]
        return None

    def _holds(self, due_at_ms: int, path: str) -> bool:
        leaf = self.leaves.get(path)
        return leaf is not None and leaf.step.due_at_ms == due_at_ms and leaf.step.phase in _AWAITED


def below(path: str, block: str) -> bool:
    """Whether a step is inside the block at a path; an empty path is the whole run's."""
    return not block or (path.startswith(block) and path[len(block) : len(block) + 1] in ("/", "["))


_AWAITED = (StepPhase.WAITING, StepPhase.RETRYING)

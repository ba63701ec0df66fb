"""Owns `parallel` with `vote`: the same block several times, until enough of its outputs agree.

The result is a row: which ballots were in when it was decided depends on the order in which the branches ended. That no
majority is possible does not, so it has no row and a redrive can try the failed branches again.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError
from penstock.workflow.joins import Election
from services.orchestrator.core.blocks.branches import BranchesFrame
from services.orchestrator.core.compiler import Compiler, Node
from services.orchestrator.core.frames import Answer, Enclosure, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import VALUE_BYTES_MAX, VALUE_TOO_LARGE, NotPortableError, portable


@dataclass(frozen=True, slots=True)
class Ballot:
    """What one branch voted for: `value` is what is compared, `key` the same for all that are equal."""

    output: Any
    value: Any
    key: bytes


@dataclass(frozen=True, slots=True)
class VoteNode:
    """A compiled vote. `by` is None where whole outputs are compared."""

    id: str
    election: Election
    by: Compiled | None
    child: Node

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Begins as many branches as may run at once, unless the row says how they voted."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            return VoteFrame(self, parent, slot, path).go_on(turn)
        return Succeeded(step.output) if step.error is None else Failed(step.error)


class VoteFrame(BranchesFrame):
    """An open vote."""

    __slots__ = ("_ballots", "_ended", "_fault", "_node")

    def __init__(self, node: VoteNode, parent: Frame, slot: int, path: str) -> None:
        super().__init__(node.election.votes, node.election.max_concurrency, parent, slot, path)
        self._node = node
        self._ballots: dict[int, Ballot] = {}
        self._ended = 0
        self._fault: str | None = None

    def begin(self, turn: Turn, slot: int) -> Answer:
        """Enters the block once more."""
        child = self._node.child
        branch = Enclosure(self, slot, f"{self.path}[{slot}]", {"index": slot})
        return child.enter(turn, branch, 0, f"{branch.path}/{child.id}")

    def take(self, slot: int, answer: Succeeded | Failed) -> None:
        """Reads the branch's ballot; a branch that failed has none."""
        self._ended += 1
        if isinstance(answer, Failed):
            return
        value = answer.output
        if self._node.by is not None:
            names = {"output": answer.output, "index": slot}
            try:
                value = self._node.by(Enclosure(self, slot, self.path, names).find)
            except ExpressionError as error:
                self._fault = f"vote.by: {error}"
                return
        try:
            self._ballots[slot] = Ballot(answer.output, value, _key(self.whole(value)))
        except ExpressionError as error:
            self._fault = f"vote: {error}"

    def over(self, turn: Turn) -> Answer:
        """Whether enough ballots agree, or none can any more."""
        if self._fault is not None:
            return Failed(Failure(code="expression_failed", message=self._fault, step=self.path))
        slots: dict[bytes, list[int]] = {}
        for slot, ballot in sorted(self._ballots.items()):
            slots.setdefault(ballot.key, []).append(slot)
        needed, most = self._node.election.needed, max(slots.values(), key=len, default=[])
        if len(most) >= needed:
            return self._decided(turn, most)
        if len(most) + self.count - self._ended < needed:
            text = (
                f"no answer can have {needed} of the {self.count} votes of `{self._node.id}` any more: raise "
                "`vote.votes`, lower `vote.agree`, or compare less of the outputs with `vote.by`"
            )
            return Failed(Failure(code="no_majority", message=text, step=self.path))
        return None

    def _decided(self, turn: Turn, won: list[int]) -> Answer:
        ballots = [self._ballots[slot].value if slot in self._ballots else None for slot in range(self.count)]
        output = {"winner": self._ballots[won[0]].output, "agree": len(won), "ballots": ballots}
        step = Step(self.path, "vote", StepPhase.COMPLETED)
        try:
            step.output, size_bytes = portable(output)
        except NotPortableError as error:
            step.error = Failure(code="value_not_portable", message=f"the vote is not JSON: {error}", step=self.path)
        else:
            if size_bytes > VALUE_BYTES_MAX:
                text = f"the vote has {size_bytes} bytes; a step may return {VALUE_BYTES_MAX}: vote `by` less"
                step.error = Failure(code=VALUE_TOO_LARGE, message=text, step=self.path)
        if step.error is not None:
            step.phase, step.output = StepPhase.FAILED, None
        turn.pin(step)
        return Succeeded(step.output) if step.error is None else Failed(step.error)


def compile_vote(block_id: str, election: Election, compiler: Compiler) -> Node:
    """The vote with its block."""
    by = None if election.by is None else compiler.expression(election.by, f"{block_id}.parallel.vote.by")
    return VoteNode(block_id, election, by, compiler.block(election.do))


def _key(value: Any) -> bytes:
    """The same bytes for values that are equal as JSON: the order of fields says nothing, and 1.0 is 1."""
    return orjson.dumps(_whole(value), option=orjson.OPT_SORT_KEYS)


def _whole(value: Any) -> Any:
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case _:
            return value

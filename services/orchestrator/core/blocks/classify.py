"""Owns `route` with `classify`: a model chooses the case, another where it was not sure; the choice is a row."""

from dataclasses import dataclass

from penstock.contracts.messages import Failure, StepPhase
from penstock.workflow.classify import CLASSIFY, ESCALATE, Classify, steps_of
from penstock.workflow.definition import RouteBlock
from services.orchestrator.core.blocks.model import ModelNode
from services.orchestrator.core.compiler import Compiler, DefinitionError, Node
from services.orchestrator.core.frames import Answer, Failed, Frame, Succeeded
from services.orchestrator.core.state import Step
from services.orchestrator.core.turn import Turn


@dataclass(frozen=True, slots=True)
class Ways:
    """The blocks that a route can take, by case."""

    nodes: dict[str, Node]
    otherwise: str
    """The name of the way that is taken where no case is; it need not be there."""

    def take(self, turn: Turn, step: Step, parent: Frame, slot: int) -> Answer:
        """Enters the block that the route's row chose; with none for it the output is null."""
        if step.error is not None:
            return Failed(step.error)
        way = self.nodes.get(step.output)
        if way is None:
            return Succeeded(None)
        # The chosen block's end is the route's: it answers to the route's parent, in the route's place.
        return way.enter(turn, parent, slot, f"{step.path}/{way.id}")


@dataclass(frozen=True, slots=True)
class ClassifiedNode:
    """A compiled route that a model decides. `classifiers` are asked one after the other until one is sure."""

    id: str
    classify: Classify
    classifiers: tuple[ModelNode, ...]
    ways: Ways

    def enter(self, turn: Turn, parent: Frame, slot: int, path: str) -> Answer:
        """Asks, unless the row says what was chosen."""
        step = turn.run.steps.get(path)
        if step is None or turn.revives(step):
            return ClassifiedFrame(self, parent, slot, path).ask(turn, 0)
        return self.ways.take(turn, step, parent, slot)


class ClassifiedFrame(Frame):
    """A route whose classifier is asked. Once a case is chosen its block stands in the route's place."""

    __slots__ = ("_node",)

    def __init__(self, node: ClassifiedNode, parent: Frame, slot: int, path: str) -> None:
        super().__init__(parent, slot, path, {})
        self._node = node

    def child_ended(self, turn: Turn, slot: int, answer: Succeeded | Failed) -> Answer:
        """A classifier answered."""
        if isinstance(answer, Failed):
            return answer
        case, confidence = answer.output["case"], answer.output["confidence"]
        if confidence >= self._node.classify.min_confidence:
            return self._choose(turn, case)
        if slot + 1 < len(self._node.classifiers):
            return self.ask(turn, slot + 1)
        if self._node.ways.otherwise in self._node.ways.nodes:
            return self._choose(turn, self._node.ways.otherwise)
        return self._doubt(turn, case, confidence)

    def ask(self, turn: Turn, slot: int) -> Answer:
        """Asks a classifier; there are two at most, so this goes no deeper."""
        classifier = self._node.classifiers[slot]
        answer = classifier.enter(turn, self, slot, f"{self.path}/{classifier.id}")
        return None if answer is None else self.child_ended(turn, slot, answer)

    def _choose(self, turn: Turn, case: str) -> Answer:
        step = Step(self.path, "route", StepPhase.COMPLETED, output=case)
        turn.pin(step)
        assert self.parent is not None
        return self._node.ways.take(turn, step, self.parent, self.slot)

    def _doubt(self, turn: Turn, case: str, confidence: float) -> Failed:
        needed = self._node.classify.min_confidence
        text = (
            f"the classifier chose `{case}` with confidence {confidence:g}, less than `classify.min_confidence` "
            f"{needed:g} of the route `{self._node.id}`: lower that, or give the route an `otherwise`"
        )
        if self._node.classify.escalate is None:
            text += " or `classify.escalate`"
        failure = Failure(code="confidence_too_low", message=text, step=self.path)
        turn.pin(Step(self.path, "route", StepPhase.FAILED, error=failure))
        return Failed(failure)


def compile_classified(block: RouteBlock, classify: Classify, ways: Ways, compiler: Compiler) -> Node:
    """The route with its classifiers. Raises DefinitionError."""
    if any(case.when is not None for case in block.route):
        raise DefinitionError(f"{block.id}.route: a case has a `when`, and there is a `classify`: one of both chooses")
    if any(way.id in (CLASSIFY, ESCALATE) for way in ways.nodes.values()):
        raise DefinitionError(f"{block.id}.route: `{CLASSIFY}` and `{ESCALATE}` are the classifier's own steps")
    steps = steps_of(classify, [(case.case, case.description) for case in block.route])
    return ClassifiedNode(block.id, classify, tuple(ModelNode(step, compiler) for step in steps), ways)

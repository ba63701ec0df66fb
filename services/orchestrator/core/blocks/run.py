"""Owns `run`: a run of another workflow, waited for or not, and no deeper than `depth_max`."""

from dataclasses import replace
from typing import Any, Final

from penstock.contracts import ids
from penstock.contracts.children import ParentStep
from penstock.contracts.messages import Budget, RunRequested, RunSignalled, SignalKind, StepPhase
from penstock.workflow.expressions import Compiled, ExpressionError, Scope
from penstock.workflow.parts import RunStep
from services.orchestrator.core.budget import grant
from services.orchestrator.core.children import ChildAbandoned, ChildRequested
from services.orchestrator.core.compiler import Compiler, Node, as_budget
from services.orchestrator.core.frames import LeafFrame
from services.orchestrator.core.leaf import LeafNode, sendable
from services.orchestrator.core.state import Run, Step
from services.orchestrator.core.turn import Turn
from services.orchestrator.core.values import RefusedError

LABELS_MAX: Final = 32


class RunNode(LeafNode):
    """A compiled run step. `depth_max` is how deep the runs that it asks for may stand."""

    __slots__ = ("budget", "depth_max", "input", "labels", "wait", "workflow")

    def __init__(self, block: RunStep, compiler: Compiler) -> None:
        super().__init__(block, "run", compiler.schema(block.output_schema, f"{block.id}.output_schema"))
        self.workflow = block.run
        self.wait = block.wait
        self.labels = block.labels
        self.budget: Budget | None = None if block.budget is None else as_budget(block.budget)
        self.depth_max = compiler.depth_max
        self.input: Compiled = compiler.value(block.input, f"{block.id}.input")

    def request(self, attribution: dict[str, Any], scope: Scope, step: Step) -> ChildRequested:  # noqa: ARG002  # only a model's request depends on it
        """What any caller would ask for; the run's place among its relatives is added by `ask`."""
        labels = {**attribution["labels"], **self.labels}
        if len(labels) > LABELS_MAX:
            raise ExpressionError(f"labels: {len(labels)} with those of the run; a run may have {LABELS_MAX}")
        given = sendable(self.input, scope, "input")
        message = RunRequested(
            workflow=self.workflow,
            input={} if given is None else given,  # null is absent, in this request as in any
            run_id=ids.child_run_id(attribution["request_id"]),
            tenant=attribution["tenant"],
            labels=labels,
            priority=attribution["priority"],
            deadline=attribution["deadline"] if self.wait else None,
        )
        return ChildRequested(attribution["request_id"], attribution["step"], attribution["attempt"], message)

    def ask(self, turn: Turn, leaf: LeafFrame, attribution: dict[str, Any]) -> ChildRequested:
        """See LeafNode."""
        run = turn.run
        depth = depth_of(run) + 1
        if depth > self.depth_max:
            text = (
                f"a run of `{self.workflow}` would stand {depth} runs deep; depth_max of the workflow "
                f"`{run.workflow}` allows {self.depth_max}: raise it, or look for a workflow that runs itself"
            )
            raise RefusedError("run_depth_exceeded", text)
        asked = self.request(attribution, leaf.parent.find, leaf.step)
        parent = ParentStep(
            run_id=run.run_id,
            home=run.home,
            step=asked.step,
            request_id=asked.request_id,
            depth=depth,
            awaited=self.wait,
        )
        budget = grant(turn, leaf, self.budget)
        return replace(asked, message=asked.message.model_copy(update={"parent": parent, "budget": budget}))

    def at_once(self, step: Step) -> Any:
        """See LeafNode."""
        return None if self.wait or step.request_id is None else {"run_id": ids.child_run_id(step.request_id)}

    def give_up(self, turn: Turn, step: Step, reason: str | None) -> None:  # noqa: ARG002  # a child is told who its parent is
        """See LeafNode. A child run is asked to end, like any run."""
        if step.phase is not StepPhase.WAITING or step.request_id is None:
            return
        message = RunSignalled(
            run_id=ids.child_run_id(step.request_id),
            tenant=turn.run.tenant,
            kind=SignalKind.CANCEL,
            reason=f"its parent does not await it any more: the step {step.path} of the run {turn.run.run_id}"[:1024],
            workflow=self.workflow,
        )
        turn.decision.abandoned.append(ChildAbandoned(step.request_id, step.path, message))


def depth_of(run: Run) -> int:
    """How many runs stand above a run."""
    return 0 if run.parent is None else run.parent.depth


def compile_run(block: RunStep, compiler: Compiler) -> Node:
    """The run step."""
    return RunNode(block, compiler)

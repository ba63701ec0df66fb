"""Owns a second account of what a run was told: which answers count, kept apart from the core and compared with it."""

from decimal import Decimal

from penstock.contracts.messages import InferenceCompleted, StepPhase
from services.orchestrator.core.attempts import Completed
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.state import Run


class Ledger:
    """What the answers that were awaited have used: each counts once, all others never."""

    def __init__(self) -> None:
        self.model_calls = 0
        self.tokens = 0
        self.cost = Decimal(0)

    def note(self, run: Run, message: Completed) -> None:
        """An answer, before the run is told."""
        step = run.steps.get(message.step)
        if run.status != "running" or step is None or step.phase is not StepPhase.WAITING:
            return
        if step.request_id != message.request_id:
            return
        if isinstance(message, ChildCompleted) and step.kind == "run":
            used = message.finished.usage
            self.model_calls += used.model_calls
            self.tokens += used.input_tokens + used.output_tokens
            self.cost += used.cost.amount
        if isinstance(message, InferenceCompleted) and step.kind == "model":
            counted = message.usage
            self.model_calls += 1
            self.tokens += counted.input + counted.cached_input + counted.output + counted.reasoning
            self.cost += Decimal(0) if message.cost is None else message.cost.amount

    def check(self, run: Run) -> None:
        """Guard: what a run says that it used is what the awaited answers did, and the sum over its rows."""
        usage, steps = run.usage, run.steps.values()
        said = (usage.model_calls, usage.input_tokens + usage.output_tokens, usage.cost)
        assert said == (self.model_calls, self.tokens, self.cost)
        assert said == (
            sum(step.model_calls for step in steps),
            sum(step.input_tokens + step.output_tokens for step in steps),
            sum((step.cost for step in steps), start=Decimal(0)),
        )

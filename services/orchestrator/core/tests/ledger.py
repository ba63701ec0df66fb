"""Owns a second account of what a run was told: which answers count, kept apart from the core and compared with it."""

from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

from penstock.contracts.messages import InferenceCompleted
from services.orchestrator.core.attempts import Completed
from services.orchestrator.core.children import ChildCompleted
from services.orchestrator.core.state import Run


class Ledger:
    """What the answers to all that was asked for have used: each counts once, awaited or late."""

    def __init__(self) -> None:
        self.counted: set[UUID] = set()
        """The requests whose answer was counted."""
        self.model_calls = 0
        self.tokens = 0
        self.cost = Decimal(0)

    def note(self, run: Run, message: Completed, asked: Collection[UUID]) -> None:
        """An answer, before the run is told; `asked` are the requests of its step whose answer can be paid for."""
        step = run.steps.get(message.step)
        if step is None or message.request_id in self.counted or message.request_id not in asked:
            return
        if isinstance(message, ChildCompleted) and step.kind == "run":
            self.counted.add(message.request_id)
            used = message.finished.usage
            self.model_calls += used.model_calls
            self.tokens += used.input_tokens + used.output_tokens
            self.cost += used.cost.amount
        if isinstance(message, InferenceCompleted) and step.kind == "model":
            self.counted.add(message.request_id)
            counted = message.usage
            self.model_calls += 1
            self.tokens += counted.input + counted.cached_input + counted.output + counted.reasoning
            self.cost += Decimal(0) if message.cost is None else message.cost.amount

    def check(self, run: Run) -> None:
        """Guard: what a run says that it used is what the answers did, and the sum over its rows."""
        usage, steps = run.usage, run.steps.values()
        said = (usage.model_calls, usage.input_tokens + usage.output_tokens, usage.cost)
        assert said == (self.model_calls, self.tokens, self.cost)
        assert said == (
            sum(step.model_calls for step in steps),
            sum(step.input_tokens + step.output_tokens for step in steps),
            sum((step.cost for step in steps), start=Decimal(0)),
        )

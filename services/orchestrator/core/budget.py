"""Owns what a run has spent and may spend."""

from penstock.contracts.messages import Failure, InferenceCompleted
from services.orchestrator.core.state import Run, Step
from services.orchestrator.core.turn import RunFailedError, Turn


def count_usage(turn: Turn, step: Step, message: InferenceCompleted) -> None:
    """Adds a model call, failed ones too. Raises RunFailedError where its currency is not the run's."""
    usage = turn.run.usage
    input_tokens = message.usage.input + message.usage.cached_input
    output_tokens = message.usage.output + message.usage.reasoning
    step.model_calls += 1
    step.input_tokens += input_tokens
    step.output_tokens += output_tokens
    usage.model_calls += 1
    usage.input_tokens += input_tokens
    usage.output_tokens += output_tokens
    if message.cost is not None:
        if not usage.cost:
            usage.currency = message.cost.currency
        elif usage.currency != message.cost.currency:
            raise RunFailedError(_mixed(usage.currency, message.cost.currency, step.path))
        step.cost += message.cost.amount
        usage.cost += message.cost.amount


def check_budget(run: Run, path: str) -> Failure | None:
    """Why the model call at `path` may not be made; None: it may."""
    budget, spent = run.budget, run.usage
    if budget is None:
        return None
    if budget.model_calls is not None and spent.model_calls >= budget.model_calls:
        return _exceeded(f"{spent.model_calls} model calls of {budget.model_calls}", "model_calls", path)
    tokens = spent.input_tokens + spent.output_tokens
    if budget.tokens is not None and tokens >= budget.tokens:
        return _exceeded(f"{tokens} tokens of {budget.tokens}", "tokens", path)
    if budget.cost is not None:
        if spent.cost and budget.cost.currency != spent.currency:
            return _mixed(budget.cost.currency, spent.currency, path)
        if spent.cost >= budget.cost.amount:
            text = f"{spent.cost:f} of {budget.cost.amount:f} {budget.cost.currency}"
            return _exceeded(text, "cost", path)
    return None


def _exceeded(spent: str, cap: str, path: str) -> Failure:
    text = f"the run's budget.{cap} is spent: {spent}; nothing more was asked for"
    return Failure(code="budget_exceeded", message=text, step=path)


def _mixed(one: str, other: str, path: str) -> Failure:
    text = f"costs in {one} and {other} cannot be added; price all pools and the budget in one currency"
    return Failure(code="currency_mixed", message=text, step=path)

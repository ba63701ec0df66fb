"""Owns the two records that answer a model call: its outcome, and its usage with what it cost."""

from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.envelope import Outgoing
from penstock.contracts.messages import InferenceRequested, TokenUsage, WorkError
from penstock.runtime.work import Answers, BadRequestError, Outcome, Work
from services.inference.core.ledger import Charge
from services.inference.engines.protocol import Generation
from services.inference.station import Station

NOTHING_USED: Final = TokenUsage()
NO_COST: Final = {"amount": "0", "currency": "USD", "price_version": "none"}


@dataclass(slots=True)
class Result:
    """What a call brought, whether or not it succeeded. `charge` is None where the engine was never asked."""

    started_at_ms: int
    elapsed_ms: float = 0.0
    output: bytes | None = None
    error: WorkError | None = None
    generation: Generation | None = None
    usage: TokenUsage = NOTHING_USED
    first_token_ms: float | None = None
    charge: Charge | None = None


class CallAnswers:
    """Writes the answers of one pool."""

    def __init__(self, answers: Answers, pool: str) -> None:
        self._answers: Final = answers
        self._pool: Final = pool

    def bad_request(self, bad: BadRequestError, at_ms: int) -> list[Outgoing]:
        """The outcome and the usage of a request that asks for nothing that can be read."""
        return self._answers.bad_request(bad, at_ms, of_kind=_engine_of(self._pool, None))

    def records(self, work: Work[InferenceRequested], station: Station | None, result: Result) -> list[Outgoing]:
        """The outcome and the usage. `station` is None where no engine here serves the model."""
        request = work.request
        engine = _engine_of(self._pool, station)
        if request.adapter is not None:
            engine["adapter"] = request.adapter
        used = result.usage
        tokens = {
            "input": used.input,
            "cached_input": used.cached_input,
            "output": used.output,
            "reasoning": used.reasoning,
        }
        cost = NO_COST if station is None else station.meter.cost(request.model, result.usage, result.charge)
        # In the outcome, too: where a crash comes between the two records, the usage is told again from it.
        share = {} if station is None or result.charge is None else station.meter.share(result.charge)
        completed = {
            **engine,
            "model": request.model,
            "usage": tokens,
            "cost": cost,
            **share,
            **_said(result.generation),
        }
        usage = {**engine, "lane": request.priority.value, "tokens": tokens, **share}
        outcome = Outcome(
            result.started_at_ms,
            result.elapsed_ms,
            output=result.output,
            error=result.error,
            first_token_ms=result.first_token_ms,
            completed=completed,
            usage=usage,
            cost=cost,
        )
        return self._answers.records(work, request.model, outcome)


def _engine_of(pool: str, station: Station | None) -> dict[str, Any]:
    return {
        "pool": pool,
        "engine": "none" if station is None else station.engine.name,
        "simulated": station is not None and station.engine.simulated,
    }


def _said(generation: Generation | None) -> dict[str, Any]:
    """What only a model's answer has."""
    if generation is None:
        return {}
    said: dict[str, Any] = {"finish_reason": generation.finish_reason}
    if generation.tool_calls:
        said["tool_calls"] = [call.model_dump(exclude_none=True) for call in generation.tool_calls]
    if generation.logprobs is not None:
        said["logprobs"] = [token.model_dump(exclude_none=True) for token in generation.logprobs]
    if generation.max_tokens_used is not None:
        said["max_tokens_used"] = generation.max_tokens_used
    return said

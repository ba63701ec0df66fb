"""Owns what both sides of `make bench-vllm` are asked, and how an amount of it is summed up."""

import itertools
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ChatMessage, InferenceRequested, Lane

POOL, MODEL, TENANT = "small", "bench", "bench"
MAX_TOKENS = 32
WORDS = ("water", "pipe", "wheel", "river", "stone", "gate", "mill", "spring", "lake", "turbine", "weir", "flood")
WORDS_PER_PROMPT = 36
"""About 64 tokens, with the template around them."""
DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Level:
    """What was measured with so many requests in flight."""

    in_flight: int
    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    cpu_seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    def take(self, tokens: int, latency_ms: float) -> None:
        """One more answer."""
        self.requests += 1
        self.tokens += tokens
        self.latencies_ms.append(latency_ms)

    def as_dict(self) -> dict[str, Any]:
        """The figures, rounded for reading."""
        return {
            "in_flight": self.in_flight,
            "requests_per_second": round(self.requests / self.seconds, 2),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "p50_ms": round(statistics.median(self.latencies_ms), 2),
            "cpu_ms_per_request": round(1000 * self.cpu_seconds / max(1, self.requests), 2),
        }


def prompts() -> Iterator[InferenceRequested]:
    """Requests without end, the same ones every time; no two prompts begin alike."""
    drawn = random.Random(20)
    for number in itertools.count():
        run_id = f"bench-{number}"
        key = run_key(TENANT, run_id)
        text = f"{number} " + " ".join(drawn.choice(WORDS) for _ in range(WORDS_PER_PROMPT))
        yield InferenceRequested(
            request_id=request_id(key, "ask", 1),
            tenant=TENANT,
            run_key=key,
            run_id=run_id,
            home=0,
            workflow="bench",
            version="1",
            step="ask",
            attempt=1,
            deadline=DEADLINE,
            priority=Lane.STANDARD,
            pool=POOL,
            model=MODEL,
            messages=[ChatMessage(role="user", content=text)],
            max_tokens=MAX_TOKENS,
        )

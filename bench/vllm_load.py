"""Owns what both sides of `make bench-vllm` are asked, and how an amount of it is summed up."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bench.processes import Processes
from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ChatMessage, InferenceRequested, Lane

POOL, MODEL, TENANT = "small", "bench", "bench"
ENGINE = "engine"
"""What the CPU time of vLLM's own processes is called."""
MAX_TOKENS = 32
WORDS = ("water", "pipe", "wheel", "river", "stone", "gate", "mill", "spring", "lake", "turbine", "weir", "flood")
WORDS_PER_PROMPT = 36
"""About 64 tokens, with the template around them."""
DEADLINE = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Level:
    """What was measured with so many requests in flight. `cpu` is seconds by process."""

    in_flight: int
    seconds: float = 0.0
    requests: int = 0
    tokens: int = 0
    cpu: dict[str, float] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    in_engine_ms: list[float] = field(default_factory=list)

    def take(self, tokens: int, latency_ms: float, in_engine_ms: float) -> None:
        """One more answer, and how much of its time it was in the engine's hands."""
        self.requests += 1
        self.tokens += tokens
        self.latencies_ms.append(latency_ms)
        self.in_engine_ms.append(in_engine_ms)

    def as_dict(self) -> dict[str, Any]:
        """The figures, rounded for reading. `running` is the mean number in the engine, by Little's law."""
        requests = max(1, self.requests)
        return {
            "in_flight": self.in_flight,
            "requests_per_second": round(self.requests / self.seconds, 2),
            "tokens_per_second": round(self.tokens / self.seconds, 1),
            "p50_ms": round(statistics.median(self.latencies_ms), 2),
            "in_engine_p50_ms": round(statistics.median(self.in_engine_ms), 2),
            "running": round(sum(self.in_engine_ms) / 1000 / self.seconds, 1),
            "cpu_ms_per_request": {part: round(1000 * spent / requests, 3) for part, spent in self.cpu.items()},
        }


async def closed_loop(
    ask: Callable[[], Awaitable[int]], in_flight: int, seconds: float, settle: int, processes: Processes
) -> Level:
    """So many at a time, each asked again once it is answered; the clock runs when all have done so `settle` times.

    `ask` returns the number of tokens of its answer.
    """
    level = Level(in_flight)
    settled, over = 0, False
    all_settled = asyncio.Event()

    async def keep_asking() -> None:
        nonlocal settled
        for _ in range(settle):
            await ask()
        settled += 1
        if settled == in_flight:
            all_settled.set()
        while not over:
            began = time.perf_counter()
            tokens = await ask()
            if all_settled.is_set() and not over:
                elapsed_ms = 1000 * (time.perf_counter() - began)
                level.take(tokens, elapsed_ms, elapsed_ms)

    asking = asyncio.gather(*(keep_asking() for _ in range(in_flight)))
    await asyncio.wait((asking, asyncio.ensure_future(all_settled.wait())), return_when=asyncio.FIRST_COMPLETED)
    processes.mark()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    over, level.seconds, level.cpu = True, time.perf_counter() - began, processes.spent().seconds
    await asking
    return level


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

"""Owns the other side of `make bench-vllm`: the same vLLM engine driven raw, its prompts tokenized beforehand.

Run as a process of its own, which prints one line of JSON per number of requests in flight.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from typing import Any, Final

import psutil

from bench.vllm_load import MAX_TOKENS, Level, prompts
from services.inference.engines.vllm_library import Gauges, Outputs, Sampled, build, tokens_input
from services.inference.engines.vllm_options import VllmOptions
from services.inference.engines.vllm_prompts import token_ids

SETTLE: Final = 3
"""Rounds of as many requests as are in flight, before the clock runs."""


async def main(options: VllmOptions, levels: list[int], seconds: float) -> None:
    """Measures each level in turn."""
    built = await asyncio.to_thread(build, options, Gauges(), os.environ)
    # Rendered for the whole measurement: what the service does per request is not taken from its rival's time.
    ready = [token_ids(built, request) for request in itertools.islice(prompts(), 8_000)]
    feed = itertools.cycle(ready)
    parameters = Sampled({"max_tokens": MAX_TOKENS, "temperature": 0.0}).parameters()
    numbers = itertools.count()

    async def ask() -> int:
        outputs = await Outputs.of(built, tokens_input(next(feed), "bench"), parameters, f"raw-{next(numbers)}")
        while True:
            output = await outputs.next()
            if output.finished:
                return len(output.outputs[0].token_ids)

    for in_flight in levels:
        level = await _measure(ask, in_flight, seconds)
        print(json.dumps(level.as_dict()), flush=True)
    built.shut_down()


async def _measure(ask: Any, in_flight: int, seconds: float) -> Level:
    level = Level(in_flight)
    ends_at = 0.0

    async def keep_asking() -> None:
        for _ in range(SETTLE):
            await ask()
        settled.append(None)
        if len(settled) == in_flight:
            start()
        while not ends_at or time.perf_counter() < ends_at:
            began = time.perf_counter()
            tokens = await ask()
            if ends_at and time.perf_counter() < ends_at:
                level.take(tokens, 1000 * (time.perf_counter() - began))

    def start() -> None:
        nonlocal ends_at
        ends_at = time.perf_counter() + seconds
        spent.append(_cpu_seconds())

    settled: list[None] = []
    spent: list[float] = []
    await asyncio.gather(*(keep_asking() for _ in range(in_flight)))
    level.seconds, level.cpu_seconds = seconds, _cpu_seconds() - spent[0]
    return level


def _cpu_seconds() -> float:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in family))


if __name__ == "__main__":
    asked_options = json.loads(sys.argv[1])
    asyncio.run(main(VllmOptions.model_validate(asked_options), json.loads(sys.argv[2]), float(sys.argv[3])))

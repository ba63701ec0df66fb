"""Owns the other side of `make bench-vllm`: the same vLLM engine driven raw, its prompts tokenized beforehand.

Run as a process of its own, which reads lines of JSON, `[in_flight, seconds]`, and answers each with one.
"""

import asyncio
import itertools
import json
import os
import sys
from typing import Final

from bench.processes import DRIVER, Processes
from bench.vllm_load import ENGINE, MAX_TOKENS, closed_loop, prompts
from services.inference.engines.vllm_library import Gauges, Outputs, Sampled, build, tokens_input
from services.inference.engines.vllm_options import VllmOptions
from services.inference.engines.vllm_prompts import token_ids

SETTLE: Final = 3
"""Rounds of as many requests as are in flight, before the clock runs."""
PROMPTS: Final = 8_000


async def main(options: VllmOptions) -> None:
    """Measures what it is told to, until nobody tells any more."""
    built = await asyncio.to_thread(build, options, Gauges(), os.environ)
    # Rendered for the whole measurement: what the service does per request is not taken from its rival's time.
    ready = [token_ids(built, request) for request in itertools.islice(prompts(), PROMPTS)]
    feed = itertools.cycle(ready)
    parameters = Sampled({"max_tokens": MAX_TOKENS, "temperature": 0.0}).parameters()
    numbers = itertools.count()

    async def ask() -> int:
        outputs = await Outputs.of(built, tokens_input(next(feed), "bench"), parameters, f"raw-{next(numbers)}")
        while True:
            output = await outputs.next()
            if output.finished:
                return len(output.outputs[0].token_ids)

    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        in_flight, seconds = json.loads(line)
        level = await closed_loop(ask, in_flight, seconds, SETTLE, Processes({}, {DRIVER: ENGINE}))
        print(json.dumps(level.as_dict()), flush=True)
    built.shut_down()


if __name__ == "__main__":
    asyncio.run(main(VllmOptions.model_validate_json(sys.argv[1])))

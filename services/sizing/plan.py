"""Owns the plan: from a model, accelerators and a load to batch, tokens per second, times, number and cost.

The cache holds `kv = gpus · (memory · MEMORY_SHARE - RESERVED) - weights`, in tokens of 2 · layers · kv_heads ·
head_dim · bytes. A batch of B requests with prompts of P and answers of O tokens is taken to be steady: each step gives
B tokens, ends B/O requests, and so takes in B·P/O tokens of new prompts; its contexts hold P + O/2 on average. How long
that takes says the roofline (services.inference.core.roofline). The best batch is the smallest that gives nearly as
much as the largest that fits: more in flight would only be slower for each.
"""

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from services.inference.core.catalogue import GIB, Hardware
from services.inference.core.catalogue import ModelShape as ModelShape  # what a plan is asked with
from services.inference.core.roofline import PREFILL_TOKENS_MAX, Roofline

MEMORY_SHARE: Final = 0.9
"""Of an accelerator's memory, what an engine takes (vLLM's gpu_memory_utilization)."""
RESERVED_BYTES: Final = 2.0 * GIB
"""On each accelerator, for activations and graphs."""
DOUBLING_SHARE: Final = 0.9
"""What a model that is spread over twice as many accelerators reaches of twice the speed."""
NEARLY: Final = 0.95
"""The best batch gives this share of what the largest gives."""
BATCH_MAX: Final = 1024
HOUR_SECONDS: Final = 3600


class UnfitError(ValueError):
    """The model, or one request, does not fit; the message says what would."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked: tokens of a prompt and an answer, requests per second in all; None: what one engine takes."""

    prompt_tokens: int
    output_tokens: int
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """A model on accelerators. `gpus` make one engine, by tensor parallelism; the cost is of one accelerator."""

    model: ModelShape
    hardware: Hardware
    gpus: int = 1
    mfu: float = 0.5
    mbu: float = 0.8
    batch_max: int = BATCH_MAX
    price_per_hour: Decimal | None = None

    @property
    def kv_tokens_max(self) -> int:
        """Tokens whose keys and values fit; negative where not even the weights do."""
        memory = self.gpus * (self.hardware.memory_bytes * MEMORY_SHARE - RESERVED_BYTES)
        return math.floor((memory - self.model.weights_bytes) / self.model.kv_bytes_per_token)

    def roofline(self) -> Roofline:
        """All accelerators of the engine as one."""
        share = self.gpus * DOUBLING_SHARE ** math.log2(self.gpus)
        fp8 = self.hardware.peak_flops_fp8
        together = replace(
            self.hardware,
            peak_flops=self.hardware.peak_flops * share,
            peak_flops_fp8=None if fp8 is None else fp8 * share,
            bandwidth=self.hardware.bandwidth * share,
        )
        return Roofline(together, self.model, self.mfu, self.mbu)


@dataclass(frozen=True, slots=True)
class Speed:
    """One engine with so many requests in flight. Times in seconds."""

    batch: float
    step_seconds: float
    first_token_seconds: float
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float

    def request_seconds(self, output_tokens: int) -> float:
        """From its begin in the engine to its last token."""
        return self.first_token_seconds + (output_tokens - 1) * self.step_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What it comes to. `at_best` is one engine at its best batch, `at_load` each engine under the load."""

    engine: Engine
    load: Load
    utilisation: float
    batch_fitting: int
    at_best: Speed
    at_load: Speed
    engines: int
    rate: float
    """Requests per second that are planned for."""

    @property
    def gpus(self) -> int:
        """In all."""
        return self.engines * self.engine.gpus

    @property
    def cost_per_hour(self) -> Decimal | None:
        """Of all accelerators; None where the price is not known."""
        price = self.engine.price_per_hour
        return None if price is None else price * self.gpus

    @property
    def cost_per_thousand(self) -> Decimal | None:
        """Of a thousand requests, idle time included."""
        hour = self.cost_per_hour
        return None if hour is None else hour * 1000 / (Decimal(repr(self.rate)) * HOUR_SECONDS)


def speed(engine: Engine, load: Load, batch: float) -> Speed:
    """One engine with so many requests in flight, in the steady state."""
    prompt, output, roofline = load.prompt_tokens, load.output_tokens, engine.roofline()
    prefilled = batch * prompt / output
    contexts = batch * (prompt + output / 2)
    step = roofline.step_seconds(batch + prefilled, contexts, prefilled * prompt / 2)
    chunks = math.ceil(prompt / PREFILL_TOKENS_MAX)
    chunk = prompt / chunks
    # A new prompt is taken in beside the batch, chunk by chunk.
    first = chunks * roofline.step_seconds(batch + chunk, contexts, chunk * prompt / 2)
    ended = batch / (output * step)
    return Speed(batch, step, first, ended, batch / step, ended * prompt)


def plan(engine: Engine, load: Load, *, utilisation: float = 0.7, engines: int | None = None) -> Plan:
    """The plan for a load; `engines` where their number is given. Raises UnfitError."""
    fitting = _fitting(engine, load)
    at_best = _best(engine, load, fitting)
    if engines is None:
        engines = 1
        if load.rate is not None:
            engines = max(1, math.ceil(load.rate / (at_best.requests_per_second * utilisation) - 1e-9))
    room = engines * at_best.requests_per_second
    rate = room * utilisation if load.rate is None else load.rate
    if rate > room:
        needed = math.ceil(rate / (at_best.requests_per_second * utilisation))
        raise UnfitError(
            f"{engines * engine.gpus} accelerators take {room:.3g} requests a second at best, not {rate:g}: "
            f"{needed * engine.gpus} would, {utilisation:.0%} used"
        )
    at_load = _under(engine, load, rate / engines, at_best.batch)
    return Plan(engine, load, utilisation, fitting, at_best, at_load, engines, rate)


def gpus_needed(engine: Engine, tokens: int) -> int | None:
    """The least accelerators, a power of two, on which the weights and so many tokens fit; None: not on 64."""
    for gpus in (1, 2, 4, 8, 16, 32, 64):
        if replace(engine, gpus=gpus).kv_tokens_max >= tokens:
            return gpus
    return None


def _fitting(engine: Engine, load: Load) -> int:
    """Requests that fit into the cache, each with all that it may hold."""
    tokens = load.prompt_tokens + load.output_tokens
    context = engine.model.context_tokens_max
    if context is not None and tokens > context:
        raise UnfitError(f"prompt and answer have {tokens} tokens, the model takes {context}")
    fitting = engine.kv_tokens_max // tokens
    if fitting >= 1:
        return min(fitting, engine.batch_max)
    weights = engine.model.weights_bytes / GIB
    memory = engine.gpus * engine.hardware.memory_bytes / GIB
    needed = gpus_needed(engine, tokens)
    what = "the weights" if engine.kv_tokens_max < 0 else f"beside the weights, a request of {tokens} tokens"
    hint = (
        "smaller weights (--dtype fp8)"
        if needed is None
        else f"--tensor-parallel {needed}, or smaller weights (--dtype)"
    )
    raise UnfitError(f"{what} do not fit: the weights take {weights:.1f} GiB of {memory:.1f}; try {hint}")


def _best(engine: Engine, load: Load, fitting: int) -> Speed:
    """The smallest batch that gives nearly as much as the largest."""
    most = speed(engine, load, fitting).output_tokens_per_second
    low, high = 1, fitting
    while low < high:
        middle = (low + high) // 2
        if speed(engine, load, middle).output_tokens_per_second >= NEARLY * most:
            high = middle
        else:
            low = middle + 1
    return speed(engine, load, high)


def _under(engine: Engine, load: Load, rate: float, batch_max: float) -> Speed:
    """An engine that serves this rate: as many in flight as arrive while one is served."""
    low, high = 0.0, batch_max
    for _ in range(60):
        middle = (low + high) / 2
        if speed(engine, load, middle).requests_per_second < rate:
            low = middle
        else:
            high = middle
    return speed(engine, load, high)

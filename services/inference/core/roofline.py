"""Owns how long a step of continuous batching takes, by a roofline: the slower of arithmetic and memory traffic.

    compute = 2 · P · tokens / (peak_flops · mfu)
    memory  = (P · bytes_per_parameter + kv_tokens · kv_bytes_per_token) / (bandwidth · mbu)
    step    = max(compute, memory) + overhead
    kv_bytes_per_token = 2 · layers · kv_heads · head_dim · bytes_per_parameter

`tokens` are all that the step processes (prefill chunks, and one per sequence that decodes), `kv_tokens` all that it
reads from the cache. Sources: the roofline, Williams, Waterman and Patterson 2009 (doi 10.1145/1498765.1498785); its
form for transformers, 2·P operations per token, weights and cache read once per step, Pope et al. 2022
(arXiv:2211.05102); iteration-level batching, Yu et al. 2022 (Orca, OSDI '22). Peaks are the vendors' data sheets
(dense bf16); the share that is reached (mfu, mbu) is an assumption, not a measurement.
"""

from dataclasses import dataclass
from typing import Final

PREFILL_TOKENS_MAX: Final = 2048
"""Prompt tokens that one step takes beside the decoding sequences (chunked prefill)."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator: dense bf16 operations per second and bytes per second of its memory."""

    peak_flops: float
    bandwidth: float


HARDWARE: Final[dict[str, Hardware]] = {
    "a100-80gb": Hardware(312e12, 2.039e12),
    "h100-sxm": Hardware(989.4e12, 3.35e12),
    "h200-sxm": Hardware(989.4e12, 4.8e12),
    "l4": Hardware(121e12, 0.3e12),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model matters here. The defaults are Llama 3.1 8B in bf16."""

    parameters: float = 8.03e9
    layers: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    bytes_per_parameter: float = 2.0

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_parameter


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on an accelerator."""

    hardware: Hardware
    model: ModelShape = ModelShape()
    mfu: float = 0.5
    mbu: float = 0.8
    overhead_seconds: float = 0.0005

    def step_seconds(self, tokens: int, kv_tokens: int) -> float:
        """How long one step takes that processes `tokens` and reads `kv_tokens` from the cache."""
        compute = 2 * self.model.parameters * tokens / (self.hardware.peak_flops * self.mfu)
        weights = self.model.parameters * self.model.bytes_per_parameter
        memory = (weights + kv_tokens * self.model.kv_bytes_per_token) / (self.hardware.bandwidth * self.mbu)
        return max(compute, memory) + self.overhead_seconds


@dataclass(slots=True)
class Sequence:
    """One request in the batch: what is left of its prompt and of its answer."""

    prompt_left: int
    output_left: int
    cached: int = 0
    started: bool = False

    @property
    def finished(self) -> bool:
        return self.started and self.output_left <= 0


def step(sequences: list[Sequence], roofline: Roofline) -> float:
    """Advances a batch by one step, in place; the seconds it took. Finished sequences are the caller's to take out."""
    budget = PREFILL_TOKENS_MAX
    tokens = kv_tokens = 0
    for sequence in sequences:
        if sequence.prompt_left > 0:
            chunk = min(sequence.prompt_left, budget)
            budget -= chunk
            sequence.prompt_left -= chunk
            sequence.cached += chunk
            tokens += chunk
            if sequence.prompt_left > 0 or chunk == 0:
                continue  # the step that ends the prompt gives the first token too
        else:
            tokens += 1
            sequence.cached += 1
        sequence.started = True
        sequence.output_left -= 1
        kv_tokens += sequence.cached
    return roofline.step_seconds(tokens, kv_tokens)

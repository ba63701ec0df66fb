"""Owns how long a step of continuous batching takes, by a roofline: the slower of arithmetic and memory traffic.

    compute = 2 · P_active · tokens / (peak_flops · mfu)
    memory  = (P · bytes_per_parameter + kv_tokens · kv_bytes_per_token) / (bandwidth · mbu)
    step    = max(compute, memory) + overhead
    kv_bytes_per_token = 2 · layers · kv_heads · head_dim · bytes_per_element

`tokens` are all that the step processes (prefill chunks, and one per sequence that decodes), `kv_tokens` all that it
reads from the cache. Sources: the roofline, Williams, Waterman and Patterson 2009 (doi 10.1145/1498765.1498785); its
form for transformers, 2·P operations per token, weights and cache read once per step, Pope et al. 2022
(arXiv:2211.05102); iteration-level batching, Yu et al. 2022 (Orca, OSDI '22). Peaks are the vendors' data sheets
(dense bf16); the share that is reached (mfu, mbu) is an assumption, not a measurement.
"""

from dataclasses import dataclass, field
from typing import Final

from services.inference.core.catalogue import Hardware, ModelShape

PREFILL_TOKENS_MAX: Final = 2048
"""Prompt tokens that one step takes beside the decoding sequences (chunked prefill)."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on an accelerator."""

    hardware: Hardware
    model: ModelShape = field(default_factory=ModelShape)
    mfu: float = 0.5
    mbu: float = 0.8
    overhead_seconds: float = 0.0005

    def step_seconds(self, tokens: int, kv_tokens: int) -> float:
        """How long one step takes that processes `tokens` and reads `kv_tokens` from the cache."""
        flops = self.hardware.flops(self.model.bytes_per_parameter)
        compute = 2 * self.model.active * tokens / (flops * self.mfu)
        memory = (self.model.weights_bytes + kv_tokens * self.model.kv_bytes_per_token) / (
            self.hardware.bandwidth * self.mbu
        )
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

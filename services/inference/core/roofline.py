"""Owns how long a step of continuous batching takes, by a roofline: the slower of arithmetic and memory traffic.

    weights   = max(2 · P_active · tokens / (peak_flops · mfu),  P · bytes_per_parameter / (bandwidth · mbu))
    attention = kv_tokens · kv_bytes_per_token / (bandwidth · mbu)
              + 4 · layers · heads · head_dim · pairs / (peak_flops_bf16 · mfu)
    step      = weights + attention + overhead
    kv_bytes_per_token = 2 · layers · kv_heads · head_dim · bytes_per_element

The layers' two parts run one after the other, so each has a roof of its own. `tokens` are all that the step processes
(prefill chunks, and one per sequence that decodes), `kv_tokens` all that decoding reads from the cache, `pairs` the
(query, key) pairs of its prefill, which matter for prompts of many thousand tokens. Sources: the roofline, Williams,
Waterman and Patterson 2009 (doi 10.1145/1498765.1498785); its form for transformers, 2·P operations per token, weights
and cache read once per step, Pope et al. 2022 (arXiv:2211.05102); iteration-level batching, Yu et al. 2022 (Orca, OSDI
'22). Peaks are the vendors' data sheets; the share that is reached (mfu, mbu) is an assumption. Against what NVIDIA
publishes for H100 and H200 it is off by an eighth as a rule: see docs/capacity.md.
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

    def step_seconds(self, tokens: float, kv_tokens: float, pairs: float = 0) -> float:
        """How long one step takes that processes `tokens` and reads `kv_tokens` from the cache."""
        model, hardware = self.model, self.hardware
        compute = 2 * model.active * tokens / (hardware.flops(model.bytes_per_parameter) * self.mfu)
        bandwidth = hardware.bandwidth * self.mbu
        attention = kv_tokens * model.kv_bytes_per_token / bandwidth
        attention += 4 * model.layers * model.heads * model.head_dim * pairs / (hardware.peak_flops * self.mfu)
        return max(compute, model.weights_bytes / bandwidth) + attention + self.overhead_seconds


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

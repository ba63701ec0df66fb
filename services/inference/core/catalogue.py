"""Owns what is known of accelerators and models before anything is measured: their data sheets, with sources.

Sources of accelerators: the vendors' data sheets for arithmetic (dense; a sheet's headline with sparsity is twice that)
and bandwidth; memory is what the driver's own tool reports as usable by programs, which differs from the headline.
NVIDIA: A100 (June 2021), H100, H200, L4, L40S and HGX B200 Tensor Core GPU data sheets; AMD: Instinct MI300X data
sheet. Sources of models: their `config.json` as published with the weights; parameters as counted in the published
weights, embeddings included.

Not here: models whose cache the formula of `ModelShape.kv_bytes_per_token` does not describe (latent attention as in
DeepSeek V3, sliding windows as in Gemma 2 and gpt-oss, recurrent layers).
"""

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024**2
GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Hardware:
    """One accelerator: dense bf16 operations per second, bytes per second of its memory, and how much there is."""

    peak_flops: float
    bandwidth: float
    memory_bytes: float
    peak_flops_fp8: float | None = None
    """Dense, with 8-bit floats; None where it has none."""
    source: str = ""

    def flops(self, bytes_per_parameter: float) -> float:
        """What arithmetic can reach on weights of this size. Weights below 8 bits are computed with in 16."""
        return self.peak_flops_fp8 if bytes_per_parameter == 1.0 and self.peak_flops_fp8 else self.peak_flops


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model matters for speed and memory. The defaults are Llama 3.1 8B in bf16."""

    parameters: float = 8.03e9
    layers: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    bytes_per_parameter: float = 2.0
    parameters_active: float | None = None
    """Of a mixture of experts: what one token is multiplied with. None: all."""
    kv_bytes_per_element: float | None = None
    """Of the cache. None: as the parameters, but never less than a byte (8-bit floats)."""
    context_tokens_max: int | None = 131_072
    """What the model was made for, prompt and answer. None: not known."""
    heads: int = 32
    """Of attention; those of keys and values are `kv_heads`."""

    @property
    def kv_bytes_per_token(self) -> float:
        """Keys and values of one token in all layers."""
        element = max(1.0, self.bytes_per_parameter) if self.kv_bytes_per_element is None else self.kv_bytes_per_element
        return 2 * self.layers * self.kv_heads * self.head_dim * element

    @property
    def weights_bytes(self) -> float:
        """All parameters."""
        return self.parameters * self.bytes_per_parameter

    @property
    def active(self) -> float:
        """Parameters that one token is multiplied with."""
        return self.parameters if self.parameters_active is None else self.parameters_active


HARDWARE: Final[dict[str, Hardware]] = {
    "a100-80gb": Hardware(312e12, 2.039e12, 81_920 * MIB, source="NVIDIA A100 data sheet (SXM, 80 GB)"),
    "h100-sxm": Hardware(989.4e12, 3.35e12, 81_559 * MIB, 1978.9e12, "NVIDIA H100 data sheet (SXM5, 80 GB HBM3)"),
    "h100-pcie": Hardware(756e12, 2.0e12, 81_559 * MIB, 1513e12, "NVIDIA H100 data sheet (PCIe, 80 GB HBM2e)"),
    "h100-nvl": Hardware(835.5e12, 3.9e12, 95_830 * MIB, 1671e12, "NVIDIA H100 NVL data sheet (94 GB HBM3)"),
    "h200-sxm": Hardware(989.4e12, 4.8e12, 143_771 * MIB, 1978.9e12, "NVIDIA H200 data sheet (SXM, 141 GB HBM3e)"),
    "b200-sxm": Hardware(2250e12, 7.7e12, 183_359 * MIB, 4500e12, "NVIDIA HGX B200 data sheet (180 GB HBM3e)"),
    "l4": Hardware(121e12, 0.3e12, 23_034 * MIB, 242.5e12, "NVIDIA L4 data sheet (24 GB GDDR6)"),
    "l40s": Hardware(362.05e12, 0.864e12, 46_068 * MIB, 733e12, "NVIDIA L40S data sheet (48 GB GDDR6)"),
    "mi300x": Hardware(1307.4e12, 5.3e12, 192 * GIB, 2614.9e12, "AMD Instinct MI300X data sheet (192 GB HBM3)"),
}

HARDWARE_ALIASES: Final = {
    "a100": "a100-80gb",
    "b200": "b200-sxm",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
}
"""What people say, and which variant is meant."""

MODELS: Final[dict[str, ModelShape]] = {
    "smollm2-135m": ModelShape(134.5e6, 30, 3, 64, context_tokens_max=8_192, heads=9),
    "smollm2-360m": ModelShape(361.8e6, 32, 5, 64, context_tokens_max=8_192, heads=15),
    "smollm2-1.7b": ModelShape(1.711e9, 24, 32, 64, context_tokens_max=8_192),
    "llama-3.1-8b": ModelShape(),
    "llama-3.1-70b": ModelShape(70.55e9, 80, 8, 128, heads=64),
    "llama-3.1-405b": ModelShape(405.85e9, 126, 8, 128, heads=128),
    "llama-3.2-1b": ModelShape(1.236e9, 16, 8, 64),
    "llama-3.2-3b": ModelShape(3.213e9, 28, 8, 128, heads=24),
    "llama-3.3-70b": ModelShape(70.55e9, 80, 8, 128, heads=64),
    "mistral-7b": ModelShape(7.248e9, 32, 8, 128, context_tokens_max=32_768),
    "mistral-small-24b": ModelShape(23.57e9, 40, 8, 128, context_tokens_max=32_768),
    "mixtral-8x7b": ModelShape(46.70e9, 32, 8, 128, parameters_active=12.88e9, context_tokens_max=32_768),
    "phi-4": ModelShape(14.66e9, 40, 10, 128, context_tokens_max=16_384, heads=40),
    "qwen2.5-7b": ModelShape(7.616e9, 28, 4, 128, context_tokens_max=32_768, heads=28),
    "qwen2.5-14b": ModelShape(14.77e9, 48, 8, 128, context_tokens_max=32_768, heads=40),
    "qwen2.5-32b": ModelShape(32.76e9, 64, 8, 128, context_tokens_max=32_768, heads=40),
    "qwen2.5-72b": ModelShape(72.71e9, 80, 8, 128, context_tokens_max=32_768, heads=64),
    "qwen3-8b": ModelShape(8.191e9, 36, 8, 128, context_tokens_max=40_960),
    "qwen3-14b": ModelShape(14.77e9, 40, 8, 128, context_tokens_max=40_960, heads=40),
    "qwen3-32b": ModelShape(32.76e9, 64, 8, 128, context_tokens_max=40_960, heads=64),
    "qwen3-30b-a3b": ModelShape(30.53e9, 48, 4, 128, parameters_active=3.3e9, context_tokens_max=40_960),
}

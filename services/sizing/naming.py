"""Owns how people name what is to be sized: models and accelerators of the catalogue, or a shape that they give."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from services.inference.core.catalogue import HARDWARE, HARDWARE_ALIASES, MODELS, Hardware, ModelShape

BYTES: Final[dict[str, float]] = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}
"""Of one parameter. Scales and zero points are left out: a few per cent of four-bit weights."""
KV_BYTES: Final[dict[str, float]] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0}


class UnknownNameError(ValueError):
    """There is no such model or accelerator; the message names the nearest."""


def accelerator(name: str) -> tuple[str, Hardware]:
    """An accelerator by its name, or by what people say. Raises UnknownNameError."""
    key = name.lower()
    key = HARDWARE_ALIASES.get(key, key)
    if key in HARDWARE:
        return key, HARDWARE[key]
    raise UnknownNameError(f"no accelerator {name!r} is known; {_nearest(key, [*HARDWARE, *HARDWARE_ALIASES])}")


def model(name: str, dtype: str = "bf16", kv_dtype: str | None = None) -> ModelShape:
    """A model of the catalogue, by its name or its repository's. Raises UnknownNameError."""
    key = name.lower().rsplit("/", 1)[-1]
    for part in ("meta-", "-instruct", "-chat", "-hf", "-fp8", "-it", "-v0.3", "-v0.1"):
        key = key.replace(part, "")
    if key in MODELS:
        return typed(MODELS[key], dtype, kv_dtype)
    hint = "give its shape: --config config.json, or --parameters, --layers, --kv-heads, --head-dim"
    raise UnknownNameError(f"no model {name!r} is known; {_nearest(key, list(MODELS))}; or {hint}")


def typed(shape: ModelShape, dtype: str, kv_dtype: str | None = None) -> ModelShape:
    """The shape with weights of `dtype` and a cache of `kv_dtype`, which is 16 bits unless said, as engines have it."""
    if dtype not in BYTES:
        raise UnknownNameError(f"no dtype {dtype!r}; one of {', '.join(BYTES)}")
    if kv_dtype is not None and kv_dtype not in KV_BYTES:
        raise UnknownNameError(f"no dtype {kv_dtype!r} of the cache; one of {', '.join(KV_BYTES)}")
    return replace(shape, bytes_per_parameter=BYTES[dtype], kv_bytes_per_element=KV_BYTES[kv_dtype or "bf16"])


def of_config(config: Mapping[str, Any], parameters: float | None = None) -> ModelShape:
    """The shape that a model's config.json (Hugging Face) describes; parameters are counted where they are not given.

    Raises UnknownNameError for a config that lacks something, or whose cache is of another kind.
    """
    try:
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        head_dim = int(config.get("head_dim") or hidden // heads)
        inner, words = int(config["intermediate_size"]), int(config["vocab_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnknownNameError(f"the config lacks a number: {error}") from None
    if config.get("kv_lora_rank"):
        raise UnknownNameError(
            "the config has latent attention (kv_lora_rank), whose cache the formula does not describe"
        )
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 1)
    chosen = int(config.get("num_experts_per_tok") or 1)
    expert = 3 * hidden * int(config.get("moe_intermediate_size") or inner if experts > 1 else inner)
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    words_twice = 1 if config.get("tie_word_embeddings") else 2
    counted = layers * (attention + experts * expert) + words_twice * words * hidden
    active = counted - layers * (experts - chosen) * expert if experts > 1 else None
    return ModelShape(
        parameters=float(counted if parameters is None else parameters),
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        parameters_active=None if active is None else float(active),
        context_tokens_max=config.get("max_position_embeddings"),
        heads=heads,
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(sorted(known))}"

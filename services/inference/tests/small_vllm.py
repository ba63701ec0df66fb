"""Owns the real vLLM engine as tests have it: a small model on the CPU, built in seconds."""

import os
from pathlib import Path
from typing import Any, Final

from services.inference.core.suspects import Suspects
from services.inference.engines.vllm import VllmEngine
from services.inference.engines.vllm_options import VllmOptions
from services.local.small_models import SmallModel, prepared

ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    # One process for scheduler and model: another one beside it would start longer, and work slower on few cores.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # What would be compiled here takes longer to compile than all tests take to run it.
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def small_options(
    model: SmallModel = "tiny-random",
    *,
    adapters: dict[str, Path] | None = None,
    tool_parser: str | None = None,
    stall_seconds: float = 60.0,
    **arguments: Any,
) -> VllmOptions:
    """How a small engine is asked for."""
    return VllmOptions(
        arguments={
            "model": str(prepared(model)),
            "dtype": "bfloat16",
            "enforce_eager": True,
            "max_model_len": 1024,
            "max_num_seqs": 32,
            "kv_cache_memory_bytes": 128 * 1024 * 1024,
            **arguments,
        },
        adapters=adapters or {},
        environment=ENVIRONMENT,
        tool_parser=tool_parser,
        stall_seconds=stall_seconds,
        drain_seconds=5.0,
        start_method="fork",
    )


def small_vllm(model: SmallModel = "tiny-random", *, suspects: Suspects | None = None, **chosen: Any) -> VllmEngine:
    """An engine, not started yet. `chosen` is what `small_options` takes."""
    return VllmEngine(small_options(model, **chosen), environment=os.environ, suspects=suspects)

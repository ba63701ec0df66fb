"""Owns how a vLLM engine is asked for: its own arguments, passed through, and the few things that are ours."""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

DEFAULTS: Final[dict[str, Any]] = {
    # The lane decides before the tenant's place in the queue.
    "scheduling_policy": "priority",
    "enable_prefix_caching": True,
    # `guidance` kept strings valid where xgrammar let control characters through; the answer is checked again anyway.
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    # A line in the log every ten seconds; the same figures are in the metrics.
    "disable_log_stats": True,
}
"""What holds where the arguments do not say otherwise."""

ENVIRONMENT: Final = {
    # Nobody is told what runs here.
    "VLLM_NO_USAGE_STATS": "1",
    # Standard output is for log records of this service.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # A model that is not at hand is an error at start; nothing is fetched behind anybody's back.
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set for vLLM and its processes, where neither the options nor the environment say otherwise."""


class VllmOptions(BaseModel):
    """One vLLM engine. Unknown names are refused here, unknown `arguments` by vLLM when it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arguments: dict[str, Any]
    """Of vLLM's AsyncEngineArgs, by their names: `model`, `tensor_parallel_size`, `quantization`, `enable_lora`, …"""
    adapters: dict[str, Path] = Field(default_factory=dict)
    """LoRA adapters: the name that requests use, and the folder. They need `enable_lora` in the arguments."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables for vLLM and its processes, over those of the service: `VLLM_…`, `OMP_NUM_THREADS`, …"""
    tool_parser: str | None = None
    """Which of vLLM's tool parsers reads the model's tool calls (`hermes`, `llama3_json`, …). Without one, a tool call
    can be demanded (`tool_choice` is `required` or a name) but not left to the model."""
    stall_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    """An engine that has work and does nothing for so long is killed and built again. More than its longest step."""
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """How long calls may take to end when the engine is closed."""
    start_method: Literal["spawn", "fork"] = "spawn"
    """How the engine's process begins. `fork` is far faster, and only for machines without a GPU."""

    def merged(self) -> dict[str, Any]:
        """The arguments, with the defaults for those that are not given."""
        return {**DEFAULTS, **self.arguments}


def read_options(text: object) -> object:
    """Options from YAML, or from the YAML file that `text` names. Raises ValueError that says what is wrong."""
    if not isinstance(text, str):
        return text
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str):
            value = yaml.safe_load(Path(value).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"neither YAML nor a YAML file: {error}") from None
    return VllmOptions.model_validate(value)

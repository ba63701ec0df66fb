"""Owns the settings of inference, and what they make: the engine, its prices, its models."""

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator

from penstock.contracts.prices import PriceList, parsed
from penstock.runtime.settings import Names, ServiceSettings
from services.inference.caller import Limits
from services.inference.core.coalesce import Pace
from services.inference.engines.protocol import Engine
from services.inference.engines.vllm_options import VllmOptions, read_options
from services.inference.fleet import (
    EngineEntry,
    OpenAiEntry,
    OpenAiOptions,
    SimulatedEntry,
    SimulatedOptions,
    VllmEntry,
    read,
)

PRICES: Final = Path(__file__).with_name("prices.yaml")


class InferenceSettings(ServiceSettings):
    """One instance drives the engines of one pool."""

    inference_pool: str = "small"
    """The pool whose requests this instance takes; one of PENSTOCK_POOLS."""
    inference_engines: Path | None = None
    """A file of engines (docs/inference.md), in place of the one that the settings from here to `hardware` describe."""
    inference_engine: Literal["openai", "vllm", "simulated"] = "openai"
    inference_base_url: str = Field(default="http://127.0.0.1:8080/v1", description="an OpenAI-compatible endpoint")
    inference_api_key: SecretStr | None = None
    """Sent as a bearer token, where the endpoint asks for one."""
    inference_model: Names = ("smollm2-135m",)
    """The models that the engine serves, separated by commas."""
    inference_concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Requests in the engine at a time, at most; the best number is found (left out: 8 for openai, 1024 else)."""
    inference_prices: Path = Field(default=PRICES, description="the price list: YAML, or LiteLLM's JSON")
    inference_billing: Literal["hour", "token"] = "hour"
    inference_hardware: str = Field(default="cpu", description="what `hour` bills, from the price list")
    inference_gpus: int = Field(default=1, ge=1, le=1024, description="accelerators of this hardware the engine has")
    inference_gpu_devices: Names = ()
    """Whose energy counters are the engine's (NVML index, UUID or PCI bus id); none: no energy is told."""
    inference_account_seconds: float = Field(default=60.0, ge=0.01, le=3600, description="between records of account")
    inference_stream_every_ms: float = Field(default=75.0, ge=1, le=10_000, description="between pieces of an answer")
    inference_stream_characters: int = Field(default=400, ge=1, le=65_536, description="of a piece that is due sooner")
    inference_vllm: Annotated[VllmOptions | None, BeforeValidator(read_options)] = None
    """With the engine `vllm`: its options as YAML, or the path of a YAML file. `{arguments: {model: …}}` at least."""
    inference_simulated_hardware: str = "h100-sxm"
    """Which GPU the simulation models."""
    inference_simulated_billions: float = Field(default=8.03, gt=0, le=10_000)
    """How large the simulated model is, in billions of parameters."""
    inference_simulated_speed: float = Field(default=1.0, gt=0, le=1e6, description="virtual seconds per second")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.inference_pool not in self.pools:
            raise ValueError(f"pool {self.inference_pool!r} is not one of PENSTOCK_POOLS: {', '.join(self.pools)}")
        if self.inference_engine == "vllm" and self.inference_vllm is None:
            raise ValueError("the engine `vllm` needs PENSTOCK_INFERENCE_VLLM, at least {arguments: {model: …}}")
        try:
            prices = self.price_list()
        except (OSError, ValueError) as error:
            raise ValueError(f"no price list in {self.inference_prices}: {error}") from None
        if self.inference_engines is not None and (beside := sorted(self.model_fields_set & _OF_ONE_ENGINE)):
            raise ValueError(f"{', '.join(beside)} describe one engine, and inference_engines names a file of them")
        try:
            fleet = self.fleet()
        except ValidationError as error:
            raise ValueError("; ".join(fault["msg"] for fault in error.errors())) from None
        faults = [fault for entry in fleet for fault in entry.faults(prices)]
        if faults:
            raise ValueError(f"{self.inference_prices} {'; '.join(faults)}")
        return self

    def fleet(self) -> tuple[EngineEntry, ...]:
        """The engines: those of the file, or the one that is described here. Raises ValueError."""
        if self.inference_engines is not None:
            return read(self.inference_engines)
        return (self._one(),)

    def _one(self) -> EngineEntry:
        shared: dict[str, Any] = {
            "name": self.inference_engine,
            "kind": self.inference_engine,
            "models": self.inference_model,
            "concurrency": self.inference_concurrency,
            "billing": self.inference_billing,
            "hardware": self.inference_hardware,
            "gpus": self.inference_gpus,
            "gpu_devices": self.inference_gpu_devices,
        }
        match self.inference_engine:
            case "openai":
                return OpenAiEntry(**shared, options=OpenAiOptions(base_url=self.inference_base_url))
            case "vllm":
                assert self.inference_vllm is not None
                return VllmEntry(**shared, options=self.inference_vllm)
            case "simulated":
                simulated = {
                    "hardware": self.inference_simulated_hardware,
                    "billions": self.inference_simulated_billions,
                    "speed": self.inference_simulated_speed,
                }
                return SimulatedEntry(**shared, options=SimulatedOptions.model_validate(simulated))

    def engine_of(self, entry: EngineEntry) -> Engine:
        """An entry's engine. Raises OSError where its key cannot be read."""
        key = None if self.inference_api_key is None else self.inference_api_key.get_secret_value()
        # vLLM and its processes read variables of their own.
        return entry.engine(os.environ, key)  # noqa: TID251 - settings own these

    def price_list(self) -> PriceList:
        """The prices in the file that is named."""
        return parsed(self.inference_prices.read_text())

    def limits(self) -> Limits:
        """What this instance does."""
        return Limits(pool=self.inference_pool, home_partitions=self.home_partitions)

    def pace(self) -> Pace:
        """How streamed answers are cut into pieces."""
        return Pace(self.inference_stream_every_ms, self.inference_stream_characters)


_OF_ONE_ENGINE: Final = frozenset(
    f"inference_{name}"
    for name in (
        "engine",
        "base_url",
        "api_key",
        "model",
        "concurrency",
        "billing",
        "hardware",
        "gpus",
        "gpu_devices",
        "vllm",
        "simulated_hardware",
        "simulated_billions",
        "simulated_speed",
    )
)

"""Owns the settings of inference, and what they make: the engine, its prices, its models."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator

from penstock.contracts.prices import PriceList
from penstock.runtime.clock import now_ms
from penstock.runtime.settings import Names, ServiceSettings
from services.inference.caller import Limits
from services.inference.core.catalogue import HARDWARE, ModelShape
from services.inference.core.coalesce import Pace
from services.inference.core.control import START
from services.inference.core.roofline import Roofline
from services.inference.core.weights import PRIOR, of_roofline
from services.inference.engines.openai import OpenAiEngine
from services.inference.engines.protocol import Engine
from services.inference.engines.simulated import SimulatedEngine
from services.inference.engines.vllm import VllmEngine
from services.inference.engines.vllm_options import VllmOptions, read_options
from services.inference.metering import Billing

PRICES: Final = Path(__file__).with_name("prices.yaml")


class InferenceSettings(ServiceSettings):
    """One instance drives one engine for one pool."""

    inference_pool: str = "small"
    """The pool whose requests this instance takes; one of PENSTOCK_POOLS."""
    inference_engine: Literal["openai", "vllm", "simulated"] = "openai"
    inference_base_url: str = Field(default="http://127.0.0.1:8080/v1", description="an OpenAI-compatible endpoint")
    inference_api_key: SecretStr | None = None
    """Sent as a bearer token, where the endpoint asks for one."""
    inference_model: Names = ("smollm2-135m",)
    """The models that the engine serves, separated by commas."""
    inference_concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Requests in the engine at a time, at most; the best number is found (left out: 8 for openai, 1024 else)."""
    inference_prices: Path = Field(default=PRICES, description="the price list, YAML")
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
        if self.inference_simulated_hardware not in HARDWARE:
            raise ValueError(f"simulated hardware is one of {', '.join(HARDWARE)}")
        if self.inference_engine == "vllm" and self.inference_vllm is None:
            raise ValueError("the engine `vllm` needs PENSTOCK_INFERENCE_VLLM, at least {arguments: {model: …}}")
        try:
            prices = self.price_list()
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"no price list in {self.inference_prices}: {error}") from None
        if self.inference_billing == "hour" and self.inference_hardware not in prices.hardware:
            raise ValueError(f"{self.inference_prices} has no hardware {self.inference_hardware!r}")
        missing = sorted(set(self.inference_model) - set(prices.models))
        if self.inference_billing == "token" and missing:
            raise ValueError(f"{self.inference_prices} has no token price for {', '.join(missing)}")
        return self

    @property
    def concurrency(self) -> int:
        """The bound of what is in the engine at a time. An endpoint's places nobody knows but who set it up."""
        return self.inference_concurrency or (8 if self.inference_engine == "openai" else 1024)

    @property
    def concurrency_at_start(self) -> int:
        """With how many it begins: an endpoint's places are there to be used."""
        return self.concurrency if self.inference_engine == "openai" else min(START, self.concurrency)

    def price_list(self) -> PriceList:
        """The prices in the file that is named."""
        return PriceList.model_validate(yaml.safe_load(self.inference_prices.read_text()))

    def billing(self) -> Billing:
        """How calls are paid."""
        return Billing(
            self.price_list(),
            self.inference_hardware if self.inference_billing == "hour" else None,
            self.inference_gpus,
            of_roofline(self._roofline(), self.concurrency) if self.inference_engine == "simulated" else PRIOR,
        )

    def limits(self) -> Limits:
        """What this instance does."""
        return Limits(pool=self.inference_pool, home_partitions=self.home_partitions)

    def pace(self) -> Pace:
        """How streamed answers are cut into pieces."""
        return Pace(self.inference_stream_every_ms, self.inference_stream_characters)

    def engine(self) -> Engine:
        """The engine that is chosen."""
        match self.inference_engine:
            case "openai":
                return OpenAiEngine(
                    self.inference_base_url,
                    connections=self.concurrency,
                    now_ms=now_ms,
                    api_key=None if self.inference_api_key is None else self.inference_api_key.get_secret_value(),
                )
            case "vllm":
                assert self.inference_vllm is not None
                # vLLM and its processes read variables of their own.
                return VllmEngine(self.inference_vllm, environment=os.environ)  # noqa: TID251 # settings own these
            case "simulated":
                return SimulatedEngine(
                    self._roofline(), batch_max=self.concurrency, speed=self.inference_simulated_speed
                )

    def _roofline(self) -> Roofline:
        shape = ModelShape(parameters=self.inference_simulated_billions * 1e9)
        return Roofline(HARDWARE[self.inference_simulated_hardware], shape)

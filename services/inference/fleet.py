"""Owns which engines one process drives: each an entry of a file, or the one that the environment describes.

A file is a list, YAML or JSON:

    engines:
      - name: managed
        kind: openai
        models: [gpt-4o-mini]
        concurrency: 64
        billing: token
        options: {base_url: "https://api.example.com/v1", api_key_file: /run/secrets/api_key, requests_per_minute: 500}
"""

import difflib
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from penstock.contracts.prices import PriceList
from penstock.runtime.clock import now_ms
from services.inference.core.catalogue import HARDWARE, HARDWARE_ALIASES, MODELS, ModelShape
from services.inference.core.control import START
from services.inference.core.roofline import Roofline
from services.inference.core.simulation import kv_tokens_max
from services.inference.core.weights import PRIOR, Weights, of_roofline
from services.inference.engines.openai import OpenAiEngine
from services.inference.engines.openai_asked import Dialect, Endpoint
from services.inference.engines.protocol import Engine
from services.inference.engines.simulated import SimulatedEngine
from services.inference.engines.vllm import VllmEngine
from services.inference.engines.vllm_options import VllmOptions
from services.inference.metering import Billing

PLACES: Final = 1024
"""How many requests are in an engine at most, where nobody says."""
ENDPOINT_PLACES: Final = 8

Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Model = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenAiOptions(_Part):
    """An OpenAI-compatible endpoint. What is left out, the endpoint knows, and refuses by itself."""

    base_url: Annotated[str, StringConstraints(pattern="^https?://")]
    api_key_file: Path | None = None
    """Its content is sent as a bearer token; read when the process starts."""
    dialect: Dialect | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    context_tokens_max: Annotated[int, Field(ge=1)] | None = None
    images: bool | None = None
    embeddings: bool | None = None
    tools: bool | None = None
    max_tokens_field: str = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Added to every request as it is: what this endpoint takes beside the API."""
    headers: dict[str, str] = Field(default_factory=dict)

    def endpoint(self, adapters: frozenset[str] | None) -> Endpoint:
        """What the engine is told of it."""
        said = self.model_dump(exclude={"base_url", "api_key_file"})
        return Endpoint(adapters=adapters, **said)

    def api_key(self) -> str | None:
        """The token, if there is one. Raises OSError."""
        return None if self.api_key_file is None else self.api_key_file.read_text().strip()


class SimulatedOptions(_Part):
    """A model on accelerators, as a roofline says. `model` is of the catalogue; `billions` is any size in its place."""

    hardware: str = "h100-sxm"
    model: str = "llama-3.1-8b"
    billions: Annotated[float, Field(gt=0, le=10_000)] | None = None
    accelerators: Annotated[int, Field(ge=1, le=64)] = 1
    """Side by side without loss, which flatters them."""
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Virtual seconds per second."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self._hardware_name not in HARDWARE:
            raise ValueError(f"simulated hardware is one of {', '.join(HARDWARE)}")
        if self.model not in MODELS:
            raise ValueError(f"a simulated model is one of {', '.join(MODELS)}")
        if kv_tokens_max(self.roofline()) < 1:
            raise ValueError(f"the model's weights leave no room in {self.accelerators} x {self.hardware}")
        return self

    @property
    def _hardware_name(self) -> str:
        return HARDWARE_ALIASES.get(self.hardware, self.hardware)

    def roofline(self) -> Roofline:
        """The model on all the accelerators together."""
        one, count = HARDWARE[self._hardware_name], self.accelerators
        fp8 = None if one.peak_flops_fp8 is None else one.peak_flops_fp8 * count
        hardware = replace(
            one,
            peak_flops=one.peak_flops * count,
            peak_flops_fp8=fp8,
            bandwidth=one.bandwidth * count,
            memory_bytes=one.memory_bytes * count,
        )
        shape = MODELS[self.model] if self.billions is None else ModelShape(parameters=self.billions * 1e9)
        return Roofline(hardware, shape)


class _Entry(_Part):
    """One engine, what it serves, and how it is paid."""

    name: Name
    """What answers, usage, accounts and metrics call it."""
    models: Annotated[tuple[Model, ...], Field(min_length=1)]
    """What requests call its models."""
    adapters: tuple[Model, ...] | None = None
    """The LoRA adapters that it has, by name; left out, the engine is asked."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Requests in it at a time, at most; the best number is found."""
    billing: Literal["hour", "token"] = "hour"
    hardware: str = "cpu"
    """What `hour` bills, from the price list."""
    gpus: Annotated[int, Field(ge=1, le=1024)] = 1
    """Accelerators of this hardware that it has."""
    gpu_devices: tuple[str, ...] = ()
    """Whose energy counters are its own."""

    @property
    def places(self) -> int:
        """The bound of what is in the engine at a time."""
        return self.concurrency or PLACES

    @property
    def places_at_start(self) -> int:
        """With how many it begins."""
        return min(START, self.places)

    @property
    def weights(self) -> Weights:
        """What tokens weigh until the engine has shown it."""
        return PRIOR

    def billed(self, prices: PriceList) -> Billing:
        """How its calls are paid."""
        return Billing(prices, self.hardware if self.billing == "hour" else None, self.gpus, self.weights)

    def faults(self, prices: PriceList) -> list[str]:
        """What the price list lacks for it."""
        if self.billing == "hour":
            return [] if self.hardware in prices.hardware else [f"has no hardware {self.hardware!r}"]
        missing = sorted(set(self.models) - set(prices.models))
        return [f"has no token price for {', '.join(missing)}"] if missing else []

    @property
    def adapter_names(self) -> frozenset[str] | None:
        """None: the engine knows."""
        return None if self.adapters is None else frozenset(self.adapters)


class OpenAiEntry(_Entry):
    """An engine behind an OpenAI-compatible endpoint."""

    kind: Literal["openai"]
    options: OpenAiOptions

    @property
    def places(self) -> int:
        """Few, where nobody says: an endpoint's places only who set it up knows."""
        return self.concurrency or ENDPOINT_PLACES

    @property
    def places_at_start(self) -> int:
        """All: an endpoint's places are there to be used."""
        return self.places

    def engine(self, environment: MutableMapping[str, str], api_key: str | None = None) -> Engine:
        """The engine. Raises OSError where its key cannot be read."""
        del environment
        return OpenAiEngine(
            self.options.base_url,
            connections=self.places,
            now_ms=now_ms,
            api_key=self.options.api_key() if api_key is None else api_key,
            name=self.name,
            endpoint=self.options.endpoint(self.adapter_names),
        )


class SimulatedEntry(_Entry):
    """The engine that is none."""

    kind: Literal["simulated"]
    options: SimulatedOptions = SimulatedOptions()

    @property
    def weights(self) -> Weights:
        """As the roofline has it."""
        return of_roofline(self.options.roofline(), self.places)

    def engine(self, environment: MutableMapping[str, str], api_key: str | None = None) -> Engine:
        """The engine."""
        del environment, api_key
        return SimulatedEngine(
            self.options.roofline(),
            batch_max=self.places,
            speed=self.options.speed,
            name=self.name,
            adapters=self.adapter_names,
        )


class VllmEntry(_Entry):
    """vLLM's engine, in this process's own care. Its adapters stand in its options, with their folders."""

    kind: Literal["vllm"]
    options: VllmOptions

    def engine(self, environment: MutableMapping[str, str], api_key: str | None = None) -> Engine:
        """The engine; `environment` is the process's own, which vLLM and its processes read."""
        del api_key
        return VllmEngine(self.options, environment=environment, name=self.name)


EngineEntry = OpenAiEntry | SimulatedEntry | VllmEntry


class Fleet(_Part):
    """The engines of one process, each with a name of its own."""

    engines: Annotated[
        tuple[Annotated[EngineEntry, Field(discriminator="kind")], ...], Field(min_length=1, max_length=64)
    ]

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [entry.name for entry in self.engines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two engines are called {', '.join(twice)}")
        return self


class FleetError(ValueError):
    """The file of engines cannot be used; the message lists every fault, one a line."""


def read(path: Path) -> tuple[EngineEntry, ...]:
    """The engines in a file. Raises FleetError."""
    try:
        body = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise FleetError(f"no engines in {path}: {error}") from None
    try:
        return Fleet.model_validate({"engines": body} if isinstance(body, list) else body).engines
    except ValidationError as error:
        raise FleetError("\n".join(f"{path}: {_said(fault)}" for fault in error.errors(include_url=False))) from None


def _said(fault: Any) -> str:
    place: Sequence[int | str] = [part for part in fault["loc"] if part not in _KINDS]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if fault["type"] != "extra_forbidden":
        return f"{where or 'the file'}: {fault['msg'].removeprefix('Value error, ')}"
    near = difflib.get_close_matches(str(place[-1]), _KEYS, n=1, cutoff=0.0)
    return f"{where}: no such key; did you mean {near[0]}?"


_KINDS: Final = ("openai", "simulated", "vllm")
_PARTS: Final = (Fleet, OpenAiEntry, SimulatedEntry, VllmEntry, OpenAiOptions, SimulatedOptions, VllmOptions)
_KEYS: Final = sorted({name for part in _PARTS for name in part.model_fields})

"""How a vLLM engine is asked for."""

from pathlib import Path

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import load
from services.inference.engines.vllm import VllmEngine
from services.inference.engines.vllm_options import VllmOptions
from services.inference.settings import InferenceSettings

NAME = "PENSTOCK_INFERENCE_VLLM"
YAML = "arguments: {model: meta-llama/Llama-3.1-8B-Instruct, tensor_parallel_size: 2, quantization: fp8}"


def settings(text: str) -> InferenceSettings:
    return load(InferenceSettings, {"PENSTOCK_INFERENCE_ENGINE": "vllm", NAME: text})


def test_arguments_pass_through_beside_defaults_that_they_override() -> None:
    options = settings(YAML).inference_vllm

    assert options is not None
    assert options.merged()["tensor_parallel_size"] == 2
    assert options.merged()["scheduling_policy"] == "priority"
    assert VllmOptions(arguments={"scheduling_policy": "fcfs"}).merged()["scheduling_policy"] == "fcfs"


def test_options_come_from_a_file_as_well(tmp_path: Path) -> None:
    file = tmp_path / "engine.yaml"
    file.write_text(YAML)

    assert settings(str(file)).inference_vllm == settings(YAML).inference_vllm


def test_the_engine_is_chosen_without_vllm_being_imported() -> None:
    made = settings(YAML)

    assert isinstance(made.engine_of(made.fleet()[0]), VllmEngine)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/nowhere/at/all.yaml", "neither YAML nor a YAML file"),
        ("{arguments: {}, stall_second: 3}", "STALL_SECOND: Extra"),
        ("adapters: {}", "ARGUMENTS: Field required"),
        ("{arguments: {}, stall_seconds: -1}", "STALL_SECONDS: Input"),
    ],
)
def test_options_that_are_none_are_named_at_start(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settings(text)


def test_the_engine_needs_its_options() -> None:
    with pytest.raises(SettingsError, match=NAME):
        load(InferenceSettings, {"PENSTOCK_INFERENCE_ENGINE": "vllm"})

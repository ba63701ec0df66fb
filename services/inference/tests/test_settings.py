"""Tests of the settings of inference."""

from pathlib import Path

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import load
from services.inference.settings import InferenceSettings


def test_the_defaults_are_one_machine_without_a_gpu() -> None:
    settings = load(InferenceSettings, {})

    assert settings.inference_model == ("smollm2-135m",)
    (entry,) = settings.fleet()
    assert entry.billed(settings.price_list()).hardware == "cpu"
    assert settings.engine_of(entry).name == "openai"


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"PENSTOCK_INFERENCE_POOL": "large"}, "pool 'large' is not one of PENSTOCK_POOLS"),
        ({"PENSTOCK_INFERENCE_HARDWARE": "abacus"}, "has no hardware 'abacus'"),
        ({"PENSTOCK_INFERENCE_BILLING": "token"}, "has no token price for smollm2-135m"),
        (
            {"PENSTOCK_INFERENCE_ENGINE": "simulated", "PENSTOCK_INFERENCE_SIMULATED_HARDWARE": "abacus"},
            "simulated hardware is one of",
        ),
        (
            {"PENSTOCK_INFERENCE_ENGINE": "simulated", "PENSTOCK_INFERENCE_SIMULATED_BILLIONS": "70"},
            "weights leave no room",
        ),
        ({"PENSTOCK_INFERENCE_ENGINES": "/nonexistent/engines.yaml"}, "no engines in /nonexistent/engines.yaml"),
        ({"PENSTOCK_INFERENCE_CONCURENCY": "4"}, "PENSTOCK_INFERENCE_CONCURRENCY"),
        ({"PENSTOCK_INFERENCE_CONCURRENCY": "0"}, "greater than or equal to 1"),
        ({"PENSTOCK_INFERENCE_PRICES": "/nonexistent/prices.yaml"}, "/nonexistent/prices.yaml"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start_with_its_reason(environ: dict[str, str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load(InferenceSettings, environ)


def test_a_managed_endpoint_is_paid_by_the_token() -> None:
    environ = {"PENSTOCK_INFERENCE_BILLING": "token", "PENSTOCK_INFERENCE_MODEL": "gpt-4o-mini,gpt-4o"}

    settings = load(InferenceSettings, environ)

    assert settings.fleet()[0].billed(settings.price_list()).hardware is None
    assert settings.inference_model == ("gpt-4o-mini", "gpt-4o")


ENGINES = """
- name: managed
  kind: openai
  models: [gpt-4o-mini, gpt-4o]
  concurrency: 64
  billing: token
  adapters: [legal]
  options:
    base_url: https://api.example.invalid/v1
    api_key_file: {key}
    requests_per_minute: 500
    images: true
- name: fleet-a
  kind: simulated
  models: [llama-3.1-70b]
  hardware: h200-sxm
  gpus: 2
  options: {{model: llama-3.1-70b, hardware: h200, accelerators: 2}}
- name: in-process
  kind: vllm
  models: [small]
  options: {{arguments: {{model: /models/small, tensor_parallel_size: 2}}, adapters: {{legal: /models/legal}}}}
"""


def a_file(folder: Path, content: str) -> dict[str, str]:
    path = folder / "engines.yaml"
    path.write_text(content)
    return {"PENSTOCK_INFERENCE_ENGINES": str(path)}


def test_a_file_names_several_engines(tmp_path: Path) -> None:
    # given a file with a managed endpoint and a model on two accelerators
    key = tmp_path / "key"
    key.write_text("secret\n")
    settings = load(InferenceSettings, a_file(tmp_path, ENGINES.format(key=key)))

    # then each is made as it says
    managed, fleet, vllm = settings.fleet()
    prices = settings.price_list()
    assert (managed.name, managed.places, managed.billed(prices).hardware) == ("managed", 64, None)
    assert settings.engine_of(managed).limits("gpt-4o").images
    assert settings.engine_of(managed).limits("gpt-4o").adapters == frozenset({"legal"})
    assert (fleet.billed(prices).hardware, fleet.billed(prices).gpus) == ("h200-sxm", 2)
    assert settings.engine_of(fleet).simulated
    assert settings.engine_of(fleet).name == "fleet-a"
    assert settings.engine_of(vllm).name == "in-process"
    assert settings.engine_of(vllm).limits("small").adapters == frozenset({"legal"})
    room = settings.engine_of(fleet).load().kv_tokens_max
    assert room is not None
    assert room > 300_000


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[]", "engines: "),
        ("{", "no engines in"),
        ("- {name: a, kind: openay, models: [m]}", "'openai', 'simulated', 'vllm'"),
        (
            "- {name: a, kind: simulated, models: [m], concurency: 3}",
            r"engines\[0\]\.concurency: no such key; did you mean concurrency",
        ),
        (
            "- {name: a, kind: openai, models: [m], options: {base_url: 'http://x', imagess: true}}",
            r"engines\[0\]\.options\.imagess: no such key; did you mean images",
        ),
        ("- {name: a, kind: openai, models: [m], options: {}}", r"engines\[0\]\.options\.base_url: Field required"),
        (
            "- {name: a, kind: simulated, models: [m]}\n- {name: a, kind: simulated, models: [m]}",
            "two engines are called a",
        ),
        ("- {name: a, kind: simulated, models: [m], hardware: abacus}", "has no hardware 'abacus'"),
        ("- {name: a, kind: simulated, models: [m], options: {model: llama-3.1-70b}}", "leave no room in 1 x h100-sxm"),
    ],
)
def test_a_file_that_cannot_work_is_refused_at_the_start(tmp_path: Path, content: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        load(InferenceSettings, a_file(tmp_path, content))


def test_a_file_and_settings_of_one_engine_are_not_mixed(tmp_path: Path) -> None:
    environ = {**a_file(tmp_path, ENGINES.format(key="/none")), "PENSTOCK_INFERENCE_MODEL": "m"}

    with pytest.raises(SettingsError, match="inference_model describe one engine"):
        load(InferenceSettings, environ)

"""Tests of the settings of inference."""

import pytest

from penstock.runtime.errors import SettingsError
from penstock.runtime.settings import load
from services.inference.settings import InferenceSettings


def test_the_defaults_are_one_machine_without_a_gpu() -> None:
    settings = load(InferenceSettings, {})

    assert settings.inference_model == ("smollm2-135m",)
    assert settings.billing().hardware == "cpu"
    assert settings.engine().name == "openai"


@pytest.mark.parametrize(
    ("environ", "fault"),
    [
        ({"PENSTOCK_INFERENCE_POOL": "large"}, "pool 'large' is not one of PENSTOCK_POOLS"),
        ({"PENSTOCK_INFERENCE_HARDWARE": "abacus"}, "has no hardware 'abacus'"),
        ({"PENSTOCK_INFERENCE_BILLING": "token"}, "has no token price for smollm2-135m"),
        ({"PENSTOCK_INFERENCE_SIMULATED_HARDWARE": "abacus"}, "simulated hardware is one of"),
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

    assert settings.billing().hardware is None
    assert settings.inference_model == ("gpt-4o-mini", "gpt-4o")

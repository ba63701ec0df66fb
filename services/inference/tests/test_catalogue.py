"""Tests of what is known of accelerators and models."""

import pytest

from services.inference.core.catalogue import HARDWARE, HARDWARE_ALIASES, MODELS, ModelShape


@pytest.mark.parametrize(
    ("model", "kv_bytes"),
    # As the models' makers and vLLM's start-up logs have them: keys and values, two bytes an element.
    [("llama-3.1-8b", 131_072), ("llama-3.1-70b", 327_680), ("qwen2.5-7b", 57_344), ("smollm2-135m", 23_040)],
)
def test_a_token_of_a_known_model_takes_what_its_makers_say(model: str, kv_bytes: int) -> None:
    assert MODELS[model].kv_bytes_per_token == kv_bytes


def test_quantized_weights_leave_the_cache_at_a_byte_an_element() -> None:
    # given weights of four bits
    shape = ModelShape(bytes_per_parameter=0.5)

    # then nobody stores keys and values in four
    assert shape.kv_bytes_per_token == ModelShape(bytes_per_parameter=1.0).kv_bytes_per_token
    assert ModelShape(bytes_per_parameter=0.5, kv_bytes_per_element=2.0).kv_bytes_per_token == 131_072


def test_eight_bit_weights_are_computed_with_in_eight_bits_where_the_hardware_can() -> None:
    assert HARDWARE["h100-sxm"].flops(1.0) == 2 * HARDWARE["h100-sxm"].flops(2.0) + 1e11
    assert HARDWARE["a100-80gb"].flops(1.0) == HARDWARE["a100-80gb"].flops(2.0)
    assert HARDWARE["h100-sxm"].flops(0.5) == HARDWARE["h100-sxm"].flops(2.0)


def test_a_mixture_of_experts_computes_with_fewer_parameters_than_it_holds() -> None:
    for shape in MODELS.values():
        assert 0 < shape.active <= shape.parameters


def test_every_accelerator_names_its_source_and_every_alias_an_accelerator() -> None:
    assert all(hardware.source for hardware in HARDWARE.values())
    assert set(HARDWARE_ALIASES.values()) <= set(HARDWARE)

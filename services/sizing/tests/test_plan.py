"""Tests of plans: what fits, what is needed, and that more of anything is never less."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.catalogue import GIB
from services.sizing.naming import UnknownNameError, accelerator, model, of_config, typed
from services.sizing.plan import Engine, Load, UnfitError, plan, speed

LLAMA_8B_CONFIG = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
MIXTRAL_CONFIG = LLAMA_8B_CONFIG | {
    "max_position_embeddings": 32768,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
}


def an_engine(name: str = "llama-3.1-8b", gpu: str = "h200", gpus: int = 1, dtype: str = "bf16") -> Engine:
    """A model on accelerators at 2.60 an hour."""
    return Engine(model(name, dtype), accelerator(gpu)[1], gpus, price_per_hour=Decimal("2.60"))


def test_the_cache_is_what_the_weights_and_the_engine_leave() -> None:
    engine = an_engine()

    room = 143_771 * 1024**2 * 0.9 - 2 * GIB - 2 * 8.03e9
    assert engine.kv_tokens_max == int(room // 131_072)
    assert plan(engine, Load(2000, 300)).batch_fitting == engine.kv_tokens_max // 2300


def test_the_accelerators_needed_and_their_cost_follow_from_the_rate() -> None:
    made = plan(an_engine(), Load(2000, 300, rate=50))

    assert made.engines - 1 < 50 / (made.at_best.requests_per_second * 0.7) <= made.engines
    assert made.at_load.requests_per_second == pytest.approx(50 / made.engines, rel=1e-6)
    assert made.at_load.step_seconds < made.at_best.step_seconds
    hour = Decimal("2.60") * made.gpus
    assert made.cost_per_hour == hour
    assert made.cost_per_thousand == hour * 1000 / (Decimal(50) * 3600)


def test_without_a_rate_one_engine_is_filled_as_far_as_it_should_be() -> None:
    made = plan(an_engine(), Load(2000, 300), utilisation=0.5)

    assert (made.engines, made.rate) == (1, made.at_best.requests_per_second * 0.5)


@pytest.mark.parametrize(
    ("engine", "load", "says"),
    [
        (
            an_engine("llama-3.3-70b", "h100"),
            Load(100, 100),
            "the weights take 131.4 GiB of 79.6; try --tensor-parallel 2",
        ),
        (an_engine("llama-3.1-405b", "l4"), Load(100, 100), "--tensor-parallel 64"),
        (
            an_engine("llama-3.1-8b", "l4"),
            Load(100_000, 1),
            "beside the weights, a request of 100001 tokens do not fit",
        ),
        (an_engine("phi-4"), Load(16_000, 500), "prompt and answer have 16500 tokens, the model takes 16384"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(engine: Engine, load: Load, says: str) -> None:
    with pytest.raises(UnfitError, match=r"fit|takes") as error:
        plan(engine, load)

    assert says in str(error.value)


def test_a_given_number_that_is_too_small_is_said_with_the_one_that_would_do() -> None:
    with pytest.raises(UnfitError, match=r"1 accelerators take .* a second at best, not 50: 8 would, 70% used"):
        plan(an_engine(), Load(2000, 300, rate=50), engines=1)


loads = st.builds(Load, st.integers(1, 20_000), st.integers(1, 4_000), st.floats(0.01, 1_000))


@given(
    load=loads, gpu=st.sampled_from(["h100", "h200", "a100", "l40s"]), dtype=st.sampled_from(["bf16", "fp8", "int4"])
)
def test_plans_hold_together(load: Load, gpu: str, dtype: str) -> None:
    engine = an_engine(gpu=gpu, dtype=dtype)
    made = plan(engine, load)

    # what is in flight fits, and gives nearly all that could be had
    assert 1 <= made.at_best.batch <= made.batch_fitting
    assert made.batch_fitting * (load.prompt_tokens + load.output_tokens) <= engine.kv_tokens_max
    most = speed(engine, load, made.batch_fitting).output_tokens_per_second
    assert made.at_best.output_tokens_per_second >= 0.95 * most
    # the load is served, by no more than is needed
    assert made.engines * made.at_best.requests_per_second * 0.7 >= made.rate * (1 - 1e-6)
    assert made.at_load.batch <= made.at_best.batch
    # more accelerators, or shorter prompts, are never slower
    assert speed(replace(engine, gpus=2), load, 8).step_seconds < speed(engine, load, 8).step_seconds
    shorter = replace(load, prompt_tokens=max(1, load.prompt_tokens // 2))
    assert speed(engine, shorter, 8).step_seconds <= speed(engine, load, 8).step_seconds


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ],
)
def test_models_are_found_by_their_repositories_names(said: str, meant: str) -> None:
    assert model(said) == model(meant)


def test_what_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean llama-3\.1-8b"):
        model("llama-3-8b")
    with pytest.raises(UnknownNameError, match="did you mean h200"):
        accelerator("h20")
    with pytest.raises(UnknownNameError, match="no accelerator 'tpu' is known; there are a100"):
        accelerator("tpu")
    with pytest.raises(UnknownNameError, match="one of bf16, fp16, fp8, int8, int4"):
        model("llama-3.1-8b", "fp4")


def test_a_config_gives_the_shape_and_the_count_of_parameters() -> None:
    shape = of_config(LLAMA_8B_CONFIG)
    assert shape.parameters == pytest.approx(8.03e9, rel=0.001)
    assert typed(replace(shape, parameters=8.03e9), "bf16") == model("llama-3.1-8b")

    experts = of_config(MIXTRAL_CONFIG)
    known = model("mixtral-8x7b")
    assert experts.parameters == pytest.approx(known.parameters, rel=0.01)
    assert experts.active == pytest.approx(known.active, rel=0.01)


@pytest.mark.parametrize(
    ("config", "says"),
    [({}, "lacks a number: 'num_hidden_layers'"), (LLAMA_8B_CONFIG | {"kv_lora_rank": 512}, "latent attention")],
)
def test_a_config_that_says_too_little_or_another_kind_of_cache_is_refused(
    config: dict[str, object], says: str
) -> None:
    with pytest.raises(UnknownNameError, match=says):
        of_config(config)

"""Owns the two small models in the form that vLLM reads, made on this machine and kept in the user's cache folder.

One is SmolLM2-135M-Instruct, converted from the package that the local stack serves it from. The other is a Llama of
two layers with random weights: it says nothing, and costs an engine so little that what surrounds the engine shows.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

from services.local.model_server import weights

SmallModel = Literal["smollm2-135m", "tiny-random", "tiny-adapter"]
SMALL_MODELS: Final[tuple[SmallModel, ...]] = get_args(SmallModel)
RECIPE: Final = "1"
"""Part of the folder's name: a change of how a model is made makes it anew."""
VOCABULARY: Final = 2112
CONTEXT_TOKENS: Final = 2048
HIDDEN: Final = 128
CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{%- if tools and loop.first -%}
<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}{% for call in message['tool_calls'] or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""  # noqa: E501 - a template has no place to break this line


def prepared(model: SmallModel) -> Path:
    """The model's folder, made where it is missing. Needs transformers and torch; takes up to a minute."""
    import platformdirs  # here, because the package is an extra

    made = Path(platformdirs.user_cache_dir("penstock")) / "models" / f"{model}-{RECIPE}"
    if not made.exists():
        # Made beside its place and moved: who is interrupted leaves nothing that looks whole.
        draft = made.with_name(f"{made.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _MAKERS[model](draft)
        draft.rename(made)
    return made


def _smollm2(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = weights()
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(folder)


def _tiny(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(20)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=fast.bos_token_id,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        )
    ).to(torch.bfloat16).save_pretrained(folder)


def _adapter(folder: Path) -> None:
    """A LoRA adapter of the tiny model in the form of PEFT: random, and strong enough to be seen."""
    import json

    import torch
    from safetensors.torch import save_file

    rank = 8
    generator = torch.Generator().manual_seed(21)
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, HIDDEN, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(HIDDEN, rank, generator=generator)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-random",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _texts() -> Iterator[str]:
    """Some English and some Python to learn byte pairs from: this package's own sources."""
    for source in sorted(Path(__file__).parent.glob("*.py")):
        yield source.read_text()


_MAKERS: Final[dict[SmallModel, Callable[[Path], None]]] = {
    "smollm2-135m": _smollm2,
    "tiny-random": _tiny,
    "tiny-adapter": _adapter,
}


def main() -> None:
    """Prepare models and say where they are."""
    parser = argparse.ArgumentParser(description="Prepare the small models for vLLM, once.")
    parser.add_argument("models", nargs="*", help=f"some of {', '.join(SMALL_MODELS)}; all where none is named")
    chosen = parser.parse_args().models
    unknown = sorted(set(chosen) - set(SMALL_MODELS))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    for model in SMALL_MODELS:
        if not chosen or model in chosen:
            print(f"{model} {prepared(model)}", flush=True)


if __name__ == "__main__":
    main()

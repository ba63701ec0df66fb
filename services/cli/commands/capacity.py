"""Owns `penstock capacity`: what room engines have, or what a load would need."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.door import Door
from services.cli.failures import EXIT_FAILED, CommandError
from services.cli.settings import AsJson, Data
from services.sizing import naming, words
from services.sizing.plan import Engine, Load, ModelShape, UnfitError, plan
from services.sizing.prices import NoPricesError, price_of

Shape = Annotated[float | None, typer.Option(help="Of a model that is not known: billions of parameters.")]
Number = Annotated[int | None, typer.Option(help="Of a model that is not known.", min=1)]


def capacity(
    *,
    model: Annotated[str | None, typer.Option(help="Size this model; left out, show what engines report.")] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, l4, l40s, b200, mi300x, or a variant.")] = "h200",
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.", min=1)] = 1000,
    answer: Annotated[int, typer.Option("--output", help="Tokens of an answer.", min=1)] = 300,
    rate: Annotated[float | None, typer.Option(help="Requests a second; left out, what one engine takes.")] = None,
    gpus: Annotated[int | None, typer.Option(help="How many there are; left out, how many are needed.", min=1)] = None,
    tensor_parallel: Annotated[int, typer.Option(help="Accelerators of one engine.", min=1, max=64)] = 1,
    dtype: Annotated[str, typer.Option(help="Of the weights: bf16, fp16, fp8, int8, int4.")] = "bf16",
    kv_dtype: Annotated[str | None, typer.Option(help="Of the cache: bf16 (as engines have it), fp8.")] = None,
    utilisation: Annotated[float, typer.Option(help="How full engines are to be.", min=0.01, max=1.0)] = 0.7,
    mfu: Annotated[
        float, typer.Option(help="The share of the peak arithmetic that is reached.", min=0.01, max=1)
    ] = 0.5,
    mbu: Annotated[float, typer.Option(help="The share of the bandwidth that is reached.", min=0.01, max=1)] = 0.8,
    prices: Annotated[Path | None, typer.Option(help="A price list; else the one of inference.")] = None,
    config: Annotated[Path | None, typer.Option(help="The model's config.json, of one that is not known.")] = None,
    parameters: Shape = None,
    layers: Number = None,
    kv_heads: Number = None,
    head_dim: Number = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what room engines have; with --model, what a load needs: batch, tokens a second, times, GPUs, cost."""
    if model is None and config is None and parameters is None:
        _live(Door(data).get("/v1/capacity"), as_json=as_json)
        return
    try:
        own = _own_shape(config, parameters, layers, kv_heads, head_dim)
        shape = naming.model(model or "", dtype, kv_dtype) if own is None else naming.typed(own, dtype, kv_dtype)
        name, hardware = naming.accelerator(gpu)
        price = price_of(name, prices)
    except (naming.UnknownNameError, NoPricesError) as error:
        raise CommandError(str(error)) from None
    engine = Engine(shape, hardware, tensor_parallel, mfu, mbu, price_per_hour=price.amount)
    try:
        engines = None if gpus is None else max(1, gpus // tensor_parallel)
        made = plan(engine, Load(prompt, answer, rate), utilisation=utilisation, engines=engines)
    except UnfitError as error:
        raise CommandError(str(error), code=EXIT_FAILED) from None
    called = model or (config.name if config is not None else "the model")
    if as_json:
        output.as_json(words.figures(made, called, name, price))
        return
    for what, figure in words.lines(made, called, name, price):
        typer.echo(f"{what:<14}{figure}".rstrip())
    typer.echo("\nassumed:")
    for line in words.assumptions(made, price):
        typer.echo(f"- {line}")


def _own_shape(
    config: Path | None, parameters: float | None, layers: int | None, kv_heads: int | None, head_dim: int | None
) -> ModelShape | None:
    count = None if parameters is None else parameters * 1e9
    if config is not None:
        try:
            return naming.of_config(json.loads(config.read_text()), count)
        except (OSError, ValueError) as error:
            raise naming.UnknownNameError(f"{config}: {error}") from None
    given = {"parameters": parameters, "layers": layers, "kv-heads": kv_heads, "head-dim": head_dim}
    if all(value is None for value in given.values()):
        return None
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing or count is None or layers is None or kv_heads is None or head_dim is None:
        raise naming.UnknownNameError(f"a shape lacks {', '.join(missing)}")
    return ModelShape(count, layers, kv_heads, head_dim, context_tokens_max=None)


def _live(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
        return
    output.table(
        (
            "pool",
            "engine",
            "models",
            "health",
            "in flight",
            "best",
            "waiting",
            "cache free",
            "tokens/s",
            "best tokens/s",
            "",
        ),
        [
            (
                line["pool"],
                line["engine"],
                ", ".join(line["models"]),
                line["health"],
                line["requests_in_flight"],
                line.get("requests_best"),
                line["requests_waiting"],
                _free(line),
                round(line["tokens_per_second"]),
                None if line.get("tokens_per_second_best") is None else round(line["tokens_per_second_best"]),
                "simulated" if line["simulated"] else "",
            )
            for line in answer["engines"]
        ],
        numbers=("in flight", "best", "waiting", "cache free", "tokens/s", "best tokens/s"),
        empty="No engine reports (an engine that says nothing for half a minute is gone).",
    )


def _free(line: dict[str, Any]) -> str | None:
    free, whole = line.get("kv_tokens_free"), line.get("kv_tokens_max")
    return None if free is None or not whole else f"{free / whole:.0%}"

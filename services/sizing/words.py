"""Owns how a plan is said: its figures for machines, its lines for people, and all that was assumed."""

from decimal import Decimal
from typing import Any

from services.inference.core.catalogue import GIB
from services.inference.core.roofline import PREFILL_TOKENS_MAX
from services.sizing.plan import BATCH_MAX, DOUBLING_SHARE, MEMORY_SHARE, NEARLY, RESERVED_BYTES, Plan, Speed
from services.sizing.prices import Price


def figures(plan: Plan, model: str, accelerator: str, price: Price) -> dict[str, Any]:
    """All of it, in plain values with their units in the names."""
    engine, shape = plan.engine, plan.engine.model
    hour, thousand = plan.cost_per_hour, plan.cost_per_thousand
    return {
        "model": model,
        "accelerator": accelerator,
        "accelerators_per_engine": engine.gpus,
        "prompt_tokens": plan.load.prompt_tokens,
        "output_tokens": plan.load.output_tokens,
        "requests_per_second": _rounded(plan.rate),
        "weights_gib": round(shape.weights_bytes / GIB, 1),
        "memory_gib": round(engine.gpus * engine.hardware.memory_bytes / GIB, 1),
        "kv_bytes_per_token": round(shape.kv_bytes_per_token),
        "kv_tokens_max": engine.kv_tokens_max,
        "batch_fitting": plan.batch_fitting,
        "at_best": _speed(plan.at_best, plan.load.output_tokens),
        "at_load": _speed(plan.at_load, plan.load.output_tokens),
        "utilisation": _rounded(plan.rate / (plan.engines * plan.at_best.requests_per_second)),
        "engines": plan.engines,
        "accelerators": plan.gpus,
        "cost_per_hour": _money(hour, price),
        "cost_per_thousand_requests": _money(thousand, price),
        "assumptions": assumptions(plan, price),
    }


def lines(plan: Plan, model: str, accelerator: str, price: Price) -> list[tuple[str, str]]:
    """(what, figure) for a table of two columns."""
    engine, shape, best, load = plan.engine, plan.engine.model, plan.at_best, plan.at_load
    output = plan.load.output_tokens
    used = plan.rate / (plan.engines * best.requests_per_second)
    said = [
        ("model", f"{model}: {shape.parameters / 1e9:.4g} billion parameters, {shape.weights_bytes / GIB:.1f} GiB"),
        ("engine", f"{engine.gpus} {accelerator}, {engine.gpus * engine.hardware.memory_bytes / GIB:.1f} GiB"),
        ("load", f"{plan.rate:.4g} requests/s of {plan.load.prompt_tokens} + {output} tokens"),
        ("", ""),
        ("cache", f"{engine.kv_tokens_max:,} tokens of {shape.kv_bytes_per_token / 1024:.4g} KiB"),
        ("fits", f"{plan.batch_fitting} requests at a time"),
        ("best batch", f"{best.batch:.0f} requests, {best.requests_per_second:.4g} requests/s"),
        ("tokens/s", f"{best.output_tokens_per_second:,.0f} out, {best.prompt_tokens_per_second:,.0f} in"),
        (
            "first token",
            f"{_time(best.first_token_seconds)} at best batch, {_time(load.first_token_seconds)} at this load",
        ),
        ("next tokens", f"{_time(best.step_seconds)} each at best batch, {_time(load.step_seconds)} at this load"),
        ("whole answer", f"{_time(best.request_seconds(output))}, {_time(load.request_seconds(output))} at this load"),
        ("", ""),
        ("needed", f"{plan.engines} engine{_s(plan.engines)}, {plan.gpus} {accelerator}, {used:.0%} used"),
    ]
    if plan.cost_per_hour is not None and plan.cost_per_thousand is not None:
        said += [
            ("cost", f"{plan.cost_per_hour:.2f} {price.currency} an hour"),
            ("", f"{plan.cost_per_thousand:.4f} {price.currency} for 1,000 requests"),
        ]
    else:
        said.append(("cost", f"not known: the price list {price.version} has no {accelerator}"))
    return said


def assumptions(plan: Plan, price: Price) -> list[str]:
    """What the figures stand on."""
    engine, shape = plan.engine, plan.engine.model
    said = [
        f"weights of {shape.bytes_per_parameter:g} and a cache of "
        f"{shape.kv_bytes_per_token / (2 * shape.layers * shape.kv_heads * shape.head_dim):g} bytes an element",
        f"engines take {MEMORY_SHARE:.0%} of the memory, {RESERVED_BYTES / GIB:g} GiB of it on each accelerator for "
        "activations; every request holds its whole prompt and answer",
        f"a step reaches {engine.mfu:.0%} of the peak arithmetic and {engine.mbu:.0%} of the bandwidth "
        f"({engine.hardware.source or 'as given'}), and takes up to {PREFILL_TOKENS_MAX} tokens of new prompts",
        f"the best batch gives {NEARLY:.0%} of what the largest gives; at most {BATCH_MAX} requests are in an engine",
        f"engines are filled to {plan.utilisation:.0%}, evenly; no prefix is shared, no token is guessed ahead",
        "waiting for a place in an engine is not in the times",
    ]
    if engine.gpus > 1:
        said.append(f"each doubling of an engine's accelerators reaches {DOUBLING_SHARE:.0%} of twice the speed")
    if engine.price_per_hour is not None:
        said.append(f"{engine.price_per_hour} {price.currency} an hour and accelerator, price list {price.version}")
    said.append("measured engines came to between 0.8 and 1.2 of such figures, older ones to 0.7: docs/capacity.md")
    return said


def _speed(speed: Speed, output_tokens: int) -> dict[str, float]:
    return {
        "requests_in_flight": _rounded(speed.batch),
        "requests_per_second": _rounded(speed.requests_per_second),
        "output_tokens_per_second": _rounded(speed.output_tokens_per_second),
        "prompt_tokens_per_second": _rounded(speed.prompt_tokens_per_second),
        "first_token_ms": _rounded(speed.first_token_seconds * 1000),
        "next_token_ms": _rounded(speed.step_seconds * 1000),
        "request_ms": _rounded(speed.request_seconds(output_tokens) * 1000),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _money(amount: Decimal | None, price: Price) -> dict[str, str] | None:
    return None if amount is None else {"amount": f"{amount:.6f}", "currency": price.currency}


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _s(count: int) -> str:
    return "" if count == 1 else "s"

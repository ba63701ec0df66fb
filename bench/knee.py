"""Owns the table of the control law in docs/admission.md: what it finds on engines whose best batch is known.

python -m bench.knee: simulated steps by the roofline in virtual time, no Kafka and no clock; a minute or two.
"""

import random
from collections.abc import Callable

from services.inference.core.catalogue import HARDWARE, ModelShape
from services.inference.core.control import BatchControl, weighed
from services.inference.core.roofline import Roofline, Sequence, step

MODELS = {
    "8B, bf16": ModelShape(),
    "8B, fp8": ModelShape(bytes_per_parameter=1.0),
    "1B, bf16": ModelShape(parameters=1.24e9, layers=16, kv_heads=8, head_dim=64),
}
CASES = (
    ("l4", "8B, bf16", 300, 60, 64),
    ("a100-80gb", "8B, bf16", 100, 200, 1024),
    ("h100-sxm", "8B, bf16", 500, 100, 1024),
    ("h100-sxm", "8B, bf16", 4000, 30, 1024),
    ("h200-sxm", "8B, fp8", 1000, 150, 1024),
    ("h200-sxm", "1B, bf16", 200, 100, 1024),
)
"""Hardware, model, mean prompt and output tokens, places of the engine's own batch."""
LIMITS = (16, 32, 64, 96, 128, 192, 256, 512)
SEEDS = (1, 2)
SECONDS, FIXED_SECONDS = 300.0, 120.0


def main() -> None:
    """Prints a Markdown table: the best of fixed limits, and what the law reached in the second half of its time."""
    print("| engine | prompt + output | best of fixed | law: limit, of the best | 90 % after |")
    print("| --- | --- | --- | --- | --- |")
    for hardware, model, prompt, output, places in CASES:
        roofline = Roofline(HARDWARE[hardware], MODELS[model])
        fixed = {limit: _run(roofline, prompt, output, places, 1, FIXED_SECONDS, limit)[0] for limit in LIMITS}
        best = max(fixed.values())
        first = min(limit for limit, rate in fixed.items() if rate >= 0.99 * best)
        shares, limits, after = [], [], []
        for seed in SEEDS:
            control = BatchControl(1024)
            rate, history = _run(roofline, prompt, output, places, seed, SECONDS, control)
            shares.append(rate / best)
            limits.append(control.limit)
            after.append(next((at for at, measured in history if measured >= 0.9 * best), SECONDS))
        print(
            f"| {hardware}, {model}, {places} places | {prompt} + {output} | {best:,.0f} tokens/s at {first} "
            f"| {min(limits)} to {max(limits)}, {100 * min(shares):.0f} to {100 * max(shares):.0f} % "
            f"| {min(after):.0f} to {max(after):.0f} s |"
        )


def _run(
    roofline: Roofline, prompt: int, output: int, places: int, seed: int, seconds: float, limit: int | BatchControl
) -> tuple[float, list[tuple[float, float]]]:
    """Weighed tokens per second in the second half, and each stretch that the law measured: when, and how much."""
    dice, now, given = random.Random(seed), 0.0, 0.0
    control = limit if isinstance(limit, BatchControl) else None
    allowed: Callable[[], int] = (lambda: control.limit) if control is not None else (lambda: int(limit))  # type: ignore[arg-type]  # it is an int then
    inside: list[tuple[Sequence, float, float, float]] = []
    history: list[tuple[float, float]] = []
    while now < seconds:
        while len(inside) < allowed():
            read = max(1, round(dice.gauss(prompt, prompt / 4)))
            said = 1 + round(min(8 * output, dice.expovariate(1 / output)))
            mark = 0.0 if control is None else control.began(now)
            inside.append((Sequence(read, said), now, weighed(read, said), mark))
        now += step([each[0] for each in inside[:places]], roofline)
        ended = [each for each in inside if each[0].finished]
        inside = [each for each in inside if not each[0].finished]
        for _, since, tokens, mark in ended:
            if control is not None:
                before = control.rate
                control.ended(now, tokens, now - since, mark)
                if control.rate is not None and control.rate != before:
                    history.append((now, control.rate))
            if now > seconds / 2:
                given += tokens
    return given / (now - seconds / 2), history


if __name__ == "__main__":
    main()

"""Owns `make bench-vllm`: the vLLM engine through Kafka, end to end, against the same engine driven raw and over HTTP.

Everything is real: the engine on this machine's CPU, Kafka, the inference service. The sides take turns on the same
cores, level by level, and what counts is the ratio of two that came one after the other. The driver's own work is part
of the pipeline's side. Beside the ratios stands who spent the CPU time: on few cores the engine shares them with the
broker, the service and the driver, on many it does not.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from bench.processes import DRIVER
from bench.running import run
from bench.vllm_load import ENGINE
from bench.vllm_pipeline import SERVICE, through_kafka
from bench.vllm_raw import driven_raw
from bench.vllm_serve import served
from services.local.small_models import SmallModel, prepared

RESULTS: Final = Path(__file__).parent / "results"
SERVED_IN_FLIGHT: Final = 64

console = Console()

Figures = dict[str, Any]
"""What was measured of one level, as `Level.as_dict` says it."""


@dataclass(frozen=True, slots=True)
class Aim:
    """One line of the table: which figure of which levels is compared, and what is wanted of it."""

    model: SmallModel
    in_flight: int
    rival: str
    figure: str
    wanted: float
    """A ratio to the rival at least; of latency, milliseconds more at most."""

    @property
    def name(self) -> str:
        return f"{self.model} at {self.in_flight}, {self.figure.replace('_', ' ')}, against {self.rival}"

    def value(self, ours: Figures, rival: Figures) -> float:
        """The ratio, or how many milliseconds more."""
        mine, theirs = ours[self.figure], rival[self.figure]
        return float(mine - theirs if self._of_latency else mine / theirs)

    def met(self, value: float) -> bool:
        """Whether that is what is wanted."""
        return value <= self.wanted if self._of_latency else value >= self.wanted

    @property
    def _of_latency(self) -> bool:
        return self.figure == "p50_ms"


AIMS: Final = (
    Aim("smollm2-135m", 32, "raw", "tokens_per_second", 0.97),
    Aim("tiny-random", 64, "raw", "requests_per_second", 0.90),
    Aim("tiny-random", 256, "raw", "requests_per_second", 0.90),
    Aim("tiny-random", 1, "raw", "p50_ms", 12.0),
    Aim("tiny-random", SERVED_IN_FLIGHT, "serve", "requests_per_second", 1.25),
)


def main(
    seconds: Annotated[float, typer.Option(help="length of each measurement", min=1)] = 8.0,
    repeats: Annotated[int, typer.Option(help="turns of each side at each level", min=1, max=20)] = 3,
    models: Annotated[str, typer.Option(help="smollm2-135m, tiny-random, or both")] = "tiny-random,smollm2-135m",
    levels: Annotated[str, typer.Option(help="only these numbers in flight, such as 64,256")] = "",
    serve: Annotated[bool, typer.Option(help="measure `vllm serve` as well")] = True,
    save: Annotated[bool, typer.Option(help="write bench/results/vllm.json")] = True,
) -> None:
    """Measure vLLM through Kafka against the same engine driven raw, and against `vllm serve`.

    Example: .venv-vllm/bin/python -m bench.vllm --models tiny-random --levels 256 --no-serve --no-save
    """
    only = {int(level) for level in levels.split(",") if level}
    aims = [aim for aim in AIMS if aim.model in models.split(",") and (not only or aim.in_flight in only)]
    turns: list[Figures] = []
    for model in sorted({aim.model for aim in aims}):
        asked = sorted({aim.in_flight for aim in aims if aim.model == model})
        run(_measure(turns, model, asked, seconds, repeats, serve=serve))
    _print_account(turns)
    lines = [line for aim in aims if (line := _line(aim, turns)) is not None]
    _print_aims(lines)
    if save:
        RESULTS.mkdir(exist_ok=True)
        report = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds}
        (RESULTS / "vllm.json").write_text(json.dumps(report | {"turns": turns, "lines": lines}, indent=2) + "\n")


async def _measure(
    turns: list[Figures], model: SmallModel, levels: Sequence[int], seconds: float, repeats: int, *, serve: bool
) -> None:
    """Adds the turns of all sides, with what they were of."""
    options = _options(model)

    def take(side: str, figures: Figures) -> None:
        turns.append({"model": model, "side": side, **figures})
        console.print_json(data=turns[-1], indent=None)

    async with driven_raw(options) as raw, through_kafka(options, max(levels)) as kafka:
        for _ in range(repeats):
            for in_flight in levels:
                take("raw", await raw.measured(in_flight, seconds))
                take("kafka", await kafka.measured(in_flight, seconds))
    if serve and model == "tiny-random" and SERVED_IN_FLIGHT in levels:
        take("serve", await served(options["arguments"], options["environment"], SERVED_IN_FLIGHT, seconds))


def _options(model: SmallModel) -> dict[str, Any]:
    return {
        "arguments": {
            "model": str(prepared(model)),
            "dtype": "bfloat16",
            "enforce_eager": True,
            "max_model_len": 512,
            "max_num_seqs": 256,
            "kv_cache_memory_bytes": 512 * 1024 * 1024,
        },
        "environment": {
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCH_COMPILE_DISABLE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        },
        "start_method": "fork",
    }


def _of(turns: Sequence[Figures], model: str, side: str, in_flight: int) -> list[Figures]:
    return [each for each in turns if (each["model"], each["side"], each["in_flight"]) == (model, side, in_flight)]


def _line(aim: Aim, turns: Sequence[Figures]) -> dict[str, Any] | None:
    """The aim beside what was measured: the median over the turns, each against the rival's before it."""
    ours, rivals = (_of(turns, aim.model, side, aim.in_flight) for side in ("kafka", aim.rival))
    if not ours or not rivals:
        return None
    rivals += [rivals[-1]] * (len(ours) - len(rivals))
    values = [round(aim.value(mine, theirs), 3) for mine, theirs in zip(ours, rivals, strict=True)]
    value = round(statistics.median(values), 3)
    figures = {
        side: statistics.median(each[aim.figure] for each in each_turn)
        for side, each_turn in (("kafka", ours), ("rival", rivals))
    }
    return {"what": aim.name, **figures, "values": values, "value": value, "wanted": aim.wanted, "met": aim.met(value)}


def _print_aims(lines: Sequence[dict[str, Any]]) -> None:
    table = Table("what", "through Kafka", "rival", "ratio, or ms more: median", "of", "aim")
    for line in lines:
        value = f"{line['value']}{'' if line['met'] else ' (not met)'}"
        table.add_row(
            line["what"],
            f"{line['kafka']:,.1f}",
            f"{line['rival']:,.1f}",
            value,
            ", ".join(str(each) for each in line["values"]),
            str(line["wanted"]),
        )
    console.print(table)


def _print_account(turns: Sequence[Figures]) -> None:
    """CPU time per request by process, and what follows from it where everybody has a core."""
    table = Table("model, in flight", "side", "running", "CPU ms per request", "ratio to raw with cores to spare")
    for model, in_flight in dict.fromkeys((each["model"], each["in_flight"]) for each in turns):
        cpu: dict[str, dict[str, float]] = {}
        for side in ("raw", "kafka", "serve"):
            measured = _of(turns, model, side, in_flight)
            if not measured:
                continue
            cpu[side] = {
                part: round(statistics.median(each["cpu_ms_per_request"][part] for each in measured), 2)
                for part in measured[0]["cpu_ms_per_request"]
            }
            running = statistics.median(each["running"] for each in measured)
            spent = ", ".join(f"{part} {ms}" for part, ms in sorted(cpu[side].items()))
            ratio = f"{_slowest(cpu['raw']) / _slowest(cpu[side]):.2f}"
            table.add_row(f"{model}, {in_flight}", side, f"{running:,.0f}", spent, ratio)
    console.print(table)


def _slowest(cpu_ms: dict[str, float]) -> float:
    """What bounds the rate where nobody waits for a core: of those that work on every request, the busiest."""
    return max(ms for part, ms in cpu_ms.items() if part in (ENGINE, SERVICE, DRIVER, "serve"))


if __name__ == "__main__":
    typer.run(main)

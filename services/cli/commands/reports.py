"""Owns `penstock lag`."""

import re
from typing import Annotated, Any, Final

import typer

from services.cli import output
from services.cli.door import Door
from services.cli.settings import AsJson, Data

MODEL_CALLS: Final = re.compile(r"penstock\.inference\..+\.requested\.v1")


def lag(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are not behind.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show how far each consumer group is behind, per topic; for model calls, also what that will take."""
    answer = Door(data).get("/v1/lag")
    if as_json:
        output.as_json(answer)
        return
    behind = [line for line in answer["lags"] if everything or line["records"]]
    output.table(
        ("group", "topic", "records", "seconds", "GPU-seconds", "cost", ""),
        [
            (line["group"], line["topic"], line["records"], line.get("seconds"), *_predicted(line))
            for line in sorted(behind, key=lambda line: -line["records"])
        ],
        numbers=("records", "seconds", "GPU-seconds", "cost"),
        empty=f"Nobody is behind ({len(answer['lags'])} groups and topics; --all shows them).",
    )


def _predicted(line: Any) -> tuple[str, str, str]:
    """What is waiting will take, as requests of its lane took of late."""
    predicted = line.get("predicted")
    if predicted is not None:
        money = f"{predicted['cost']} {predicted['currency']}"
        return predicted["gpu_seconds"], money, "simulated" if predicted["simulated"] else ""
    unknown = "unknown" if line["records"] and MODEL_CALLS.fullmatch(line["topic"]) else ""
    return unknown, unknown, ""

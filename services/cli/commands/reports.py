"""Owns `penstock lag` and `penstock costs`."""

from typing import Annotated

import typer

from services.cli import output
from services.cli.door import Door
from services.cli.settings import AsJson, Data

BUCKETS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


def lag(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are not behind.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show how far each consumer group is behind, per topic."""
    answer = Door(data).get("/v1/lag")
    if as_json:
        output.as_json(answer)
        return
    behind = [line for line in answer["lags"] if everything or line["records"]]
    output.table(
        ("group", "topic", "records", "seconds"),
        [
            (line["group"], line["topic"], line["records"], line.get("seconds"))
            for line in sorted(behind, key=lambda line: -line["records"])
        ],
        numbers=("records", "seconds"),
        empty=f"Nobody is behind ({len(answer['lags'])} groups and topics; --all shows them).",
    )


def costs(
    *,
    by: Annotated[
        str, typer.Option(help="tenant, workflow, version, kind, model, pool, day, hour, with commas; or run alone.")
    ] = "tenant,workflow,kind",
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow only.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339; 30 days ago where left out.")] = None,
    until: Annotated[str | None, typer.Option(help="RFC 3339; now where left out.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used and what it cost."""
    answer = Door(data).get("/v1/costs", by=by, tenant=tenant, workflow=workflow, since=since, until=until)
    if as_json:
        output.as_json(answer)
        return
    names = tuple(answer["by"])
    output.table(
        (*names, "requests", "in", "cached", "out", "reasoning", "cost", ""),
        [
            (
                *(line.get(name) for name in names),
                line["requests"],
                *(line[bucket] for bucket in BUCKETS),
                f"{line['cost']} {line['currency']}",
                "simulated" if line.get("simulated") else "",
            )
            for line in answer["lines"]
        ],
        numbers=("requests", "in", "cached", "out", "reasoning", "cost"),
        empty="Nothing was used in this period.",
    )

"""Owns `penstock costs`: what was used, what it cost, what it would cost, where the accelerators' hours went."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from penstock.contracts.prices import PriceList
from services.cli import output
from services.cli.door import Door
from services.cli.failures import EXIT_UNREACHABLE, CommandError
from services.cli.focus import Charges, Issuer, Row
from services.cli.periods import moment
from services.cli.repricing import LABEL, NEEDED, Repriced, line_of, needs_entries, read_prices, repriced
from services.cli.settings import AsJson, Data
from services.cli.tables import WRITERS

BUCKETS: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
COLUMNS: Final = "tenant, workflow, version, kind, model, pool, lane, engine, step, gpu_type, day, hour"
PAGES_MAX: Final = 200
PAGE_LINES: Final = 1_000

Since = Annotated[str | None, typer.Option(help="An age (7d, 12h) or RFC 3339; 30 days ago where left out.")]
Until = Annotated[str | None, typer.Option(help="As --since; now where left out.")]

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="What was used and what it cost; where the accelerators' hours went; exports.",
)


@app.callback()
def costs(
    context: typer.Context,
    *,
    by: Annotated[str, typer.Option(help=f"{COLUMNS}, one label:KEY, with commas; or run alone.")] = (
        "tenant,workflow,kind"
    ),
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow only.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_LINES, help="Lines, the dearest first.")] = 200,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Accelerator hours times price, and where it went.")
    ] = False,
    prices: Annotated[Path | None, typer.Option(help="A price list, YAML: what it would have cost by it.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what was used and what it cost, the dearest first, and the time of the engines."""
    if context.invoked_subcommand is not None:
        return
    if reconcile and prices is not None:
        raise CommandError("--reconcile and --prices are two questions")
    period = {"since": moment(since, "--since"), "until": moment(until, "--until")}
    door = Door(data)
    if reconcile:
        _show_reconciled(door.get("/v1/costs/reconciled", **period), as_json=as_json)
    elif prices is not None:
        _show_repriced(door, by, {**period, "tenant": tenant, "workflow": workflow}, prices, as_json=as_json)
    else:
        answer = door.get("/v1/costs", by=by, tenant=tenant, workflow=workflow, limit=limit, **period)
        _show_costs(answer, as_json=as_json)


@app.command("export", epilog="Example: penstock costs export --format focus-csv --since 30d -o costs.csv")
def export(
    *,
    file: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(WRITERS)}: FOCUS 1.2.")] = "focus-csv",
    since: Annotated[str, typer.Option(help="An age (7d, 12h) or RFC 3339.")] = "30d",
    until: Until = None,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only; without the engines' own time.")] = None,
    account: Annotated[str, typer.Option(help="BillingAccountId.")] = "penstock",
    provider: Annotated[str, typer.Option(help="ProviderName: who sends the bill.")] = "Penstock",
    data: Data = None,
) -> None:
    """Write every charge to a file: usage, and accelerator time that was idle, lost or down."""
    write = WRITERS.get(format)
    if write is None:
        raise CommandError(f"unknown format {format!r}", hint=f"one of {', '.join(WRITERS)}")
    door, charges = Door(data), Charges(Issuer(account, provider))
    period = {"since": moment(since, "--since"), "until": moment(until, "--until")}
    count = write(_charges(door, charges, {**period, "tenant": tenant}), file)
    output.console.print(f"{count} charges in {file}", highlight=False)


def _charges(door: Door, charges: Charges, query: dict[str, Any]) -> Iterator[Row]:
    ended = False
    for line in door.lines("/v1/costs/entries", **query):
        if "engine" in line:
            yield from charges.of_account(line["engine"])
        elif "usage" in line:
            yield charges.of_usage(line["usage"])
        ended = "end" in line
    if not ended:
        raise _broken_off()
    if query["tenant"] is not None:
        return
    period = {name: query[name] for name in ("since", "until")}
    for pool in door.get("/v1/costs/reconciled", limit=PAGE_LINES, **period)["pools"]:
        for life in pool["lives"]:
            # Known once a life has ended, and told in the period in which it did.
            if life["state"] != "open" and _in_period(life["until"], period):
                yield from charges.of_life(life, pool)


def _in_period(at: str, period: dict[str, str | None]) -> bool:
    moment_of = datetime.fromisoformat(at)
    since, until = (None if each is None else datetime.fromisoformat(each) for each in period.values())
    return (since is None or moment_of >= since) and (until is None or moment_of < until)


def _show_costs(answer: Any, *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
        return
    names = tuple(answer["by"])
    whole_runs = any("runs" in line for line in answer["lines"])
    run_columns = ("runs", "per run", "calls p50", "p95", "max") if whole_runs else ()
    columns = (*names, "requests", "in", "cached", "out", "reasoning", "cost", "in vain", *run_columns, "")
    output.table(
        columns,
        [
            (
                *(line.get(name) for name in names),
                line["requests"],
                *(line[bucket] for bucket in BUCKETS),
                f"{line['cost']} {line['currency']}",
                line.get("wasted", {}).get("total"),
                *(_of_runs(line.get("runs")) if whole_runs else ()),
                "simulated" if line.get("simulated") else "",
            )
            for line in answer["lines"]
        ],
        numbers=columns[len(names) : -1],
        empty="Nothing was used in this period.",
    )
    if answer.get("next"):
        output.console.print("There is more: --limit.", style="dim", highlight=False)
    if answer.get("engines"):
        output.console.print()
        _show_engines(answer["engines"])


def _of_runs(runs: Any) -> tuple[Any, ...]:
    if runs is None:
        return (None,) * 5
    ended = str(runs["completed"]) + (f" +{runs['failed']} failed" if runs["failed"] else "")
    return (ended, _money(runs.get("cost_per_completed")), runs["calls_p50"], runs["calls_p95"], runs["calls_max"])


def _show_engines(engines: Any) -> None:
    numbers = ("GPU-hours", "busy", "cost", "attributed", "idle", "lost", "pending")
    output.table(
        ("pool", "accelerator", *numbers, ""),
        [
            (
                line["pool"],
                line["gpu_type"],
                _hours(line["gpu_hours"]),
                _percent(line["busy_gpu_hours"], line["gpu_hours"]),
                f"{_money(line['total'])} {line['currency']}",
                *(_money(line[name]) for name in ("attributed", "idle", "lost", "pending")),
                "simulated" if line["simulated"] else "",
            )
            for line in engines
        ],
        numbers=numbers,
        empty="",
    )


def _show_reconciled(answer: Any, *, as_json: bool) -> None:
    if as_json:
        output.as_json(answer)
        return
    parts = ("attributed", "idle", "lost", "down", "pending")
    numbers = ("lives", "GPU-hours", "bill", *parts, "difference")
    output.table(
        ("pool", "accelerator", *numbers, ""),
        [
            (
                pool["pool"],
                pool["gpu_type"],
                pool["sessions"],
                _hours(pool["gpu_hours"]),
                f"{_money(pool['bill'])} {pool['currency']}",
                *(_money(pool[part]) for part in parts),
                pool["difference"],
                ", ".join(_remarks(pool)),
            )
            for pool in answer["pools"]
        ],
        numbers=numbers,
        empty="No engine that is paid by the hour has told its time.",
    )


def _remarks(pool: Any) -> list[str]:
    remarks = ["simulated"] if pool["simulated"] else []
    if pool["missing_stretches"]:
        remarks.append(f"{pool['missing_stretches']} stretches are missing")
    if not pool["pool"]:
        remarks.append("engines that never told their time")
    return remarks


def _show_repriced(door: Door, by: str, query: dict[str, Any], file: Path, *, as_json: bool) -> None:
    prices = read_prices(file)
    names = [name.strip() for name in by.split(",") if name.strip()]
    if "run" in names:
        raise CommandError("costs by run are not told apart by what prices go by", hint="--by tenant,workflow")
    found = repriced(_priceable(door, names, query, prices), names, prices)
    ordered = sorted(found.items(), key=lambda each: (-each[1].repriced, str(each[0])))
    if as_json:
        lines = [_repriced_json(names, key, sums) for key, sums in ordered]
        output.as_json({"by": names, "prices": prices.version, "currency": prices.currency, "lines": lines})
        return
    numbers = ("requests", "recorded", f"by {prices.version}", "difference")
    output.table(
        (*names, *numbers, ""),
        [
            (*key[:-1], sums.requests, *(_exact(each) for each in _amounts(sums)), _kept(sums, simulated=key[-1]))
            for key, sums in ordered
        ],
        numbers=numbers,
        empty="Nothing was used in this period.",
    )


def _priceable(door: Door, names: list[str], query: dict[str, Any], prices: PriceList) -> Iterator[Mapping[str, Any]]:
    """Lines of sums, and of single requests where only those say what they would cost."""
    lines, period = _all_lines(door, ",".join(dict.fromkeys([*names, *NEEDED])), query)
    yield from (line for line in lines if not needs_entries(line, prices))
    by_request = [line for line in lines if needs_entries(line, prices)]
    if not by_request:
        return
    values = {name: {line[name] for line in by_request} for name in names if name.startswith(LABEL)}
    for usage in _usage(door, {**period, "tenant": query["tenant"]}):
        line = line_of(usage, names, values)
        asked = query["workflow"] in (None, usage["workflow"])
        if line is not None and asked and needs_entries(line, prices):
            yield line


def _usage(door: Door, query: dict[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every entry of usage. Raises CommandError where the answer breaks off."""
    ended = False
    for line in door.lines("/v1/costs/entries", **query):
        if "usage" in line:
            yield line["usage"]
        ended = "end" in line
    if not ended:
        raise _broken_off()


def _broken_off() -> CommandError:
    return CommandError("the gateway's answer broke off", hint="try again", code=EXIT_UNREACHABLE)


def _all_lines(door: Door, by: str, query: dict[str, Any]) -> tuple[list[Any], dict[str, str]]:
    """All pages, and the whole hours that they are of."""
    lines: list[Any] = []
    cursor, period = None, {}
    for _ in range(PAGES_MAX):
        answer = door.get("/v1/costs", by=by, limit=PAGE_LINES, cursor=cursor, **query)
        lines += answer["lines"]
        period = {"since": answer["since"], "until": _whole_hour(answer["until"])}
        cursor = answer.get("next")
        if cursor is None:
            return lines, period
    raise CommandError(f"more than {PAGES_MAX * PAGE_LINES} lines", hint="a shorter period, or fewer columns")


def _whole_hour(until: str) -> str:
    """The end of the last hour whose sums are in a period."""
    at = datetime.fromisoformat(until)
    begun = at.replace(minute=0, second=0, microsecond=0)
    return (begun if begun == at else begun + timedelta(hours=1)).isoformat()


def _repriced_json(names: list[str], key: tuple[Any, ...], sums: Repriced) -> dict[str, Any]:
    recorded, price, difference = (_exact(each) for each in _amounts(sums))
    return {
        **dict(zip(names, key[:-1], strict=True)),
        "simulated": key[-1],
        "requests": sums.requests,
        "recorded": recorded,
        "repriced": price,
        "difference": difference,
        "unpriced": sorted(sums.unpriced),
    }


def _amounts(sums: Repriced) -> tuple[Decimal, Decimal, Decimal]:
    return (sums.recorded, sums.repriced, sums.difference)


def _kept(sums: Repriced, *, simulated: bool) -> str:
    said = ["simulated"] if simulated else []
    if sums.unpriced:
        said.append(f"as recorded: {', '.join(sorted(sums.unpriced))}")
    return ", ".join(said)


def _exact(amount: Decimal) -> str:
    """To 10^-9: shares of engine time are whole nanoseconds, and what a rounded one costs is far below."""
    rounded = round(amount, 9)
    return format(rounded.normalize() if rounded else Decimal(0), "f")


def _money(amount: str | None) -> str | None:
    return None if amount is None else format(Decimal(amount), ".6f")


def _hours(hours: str) -> str:
    return format(Decimal(hours), ".4f")


def _percent(part: str, whole: str) -> str:
    return f"{100 * Decimal(part) / Decimal(whole):.1f} %" if Decimal(whole) else ""

"""Tests of what `penstock costs` and `penstock lag` print, with a gateway that answers as it is told."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import output
from services.cli.__main__ import app_for
from services.cli.commands import costs, reports
from services.cli.failures import CommandError

LINE = {
    "workflow": "audit",
    "requests": 12,
    "input_tokens": 100,
    "cached_input_tokens": 0,
    "output_tokens": 20,
    "reasoning_tokens": 0,
    "gpu_seconds": "3600",
    "cost": "2.6",
    "currency": "USD",
    "simulated": False,
    "kind": "inference",
    "model": "small",
    "gpu_type": "h200-sxm",
    "wasted": {"retries": "0.5", "abandoned": "0", "failed_runs": "0", "total": "0.5"},
    "runs": {
        "completed": 4,
        "failed": 1,
        "cost_per_completed": "0.65",
        "calls_p50": 3,
        "calls_p95": 9,
        "calls_max": 11,
    },
}
ENGINES = {
    "pool": "small",
    "gpu_type": "h200-sxm",
    "simulated": False,
    "currency": "USD",
    "sessions": 1,
    "gpu_hours": "2",
    "busy_gpu_hours": "1",
    "total": "5.2",
    "idle": "2.6",
    "attributed": "2.6",
    "lost": "0",
    "pending": "0",
}
POOL = {
    **{name: ENGINES[name] for name in ("pool", "gpu_type", "simulated", "currency", "sessions", "gpu_hours")},
    **{name: ENGINES[name] for name in ("idle", "attributed", "lost", "pending")},
    "bill": "5.2",
    "down": "0",
    "difference": "0",
    "missing_stretches": 2,
    "lives": [
        {
            "engine": "vllm-0",
            "engine_session": "s",
            "state": "lost",
            "until": "2026-11-21T12:00:00Z",
            "price_per_hour": "2.60",
            "lost": "0.1",
            "down": "0",
        }
    ],
}
LAG = {
    "lags": [
        {
            "group": "penstock.inference.small",
            "topic": "penstock.inference.small.batch.requested.v1",
            "records": 9,
            "seconds": 4.0,
            "predicted": {"gpu_seconds": "18", "cost": "0.013", "currency": "USD", "simulated": False, "measured": 70},
        },
        {"group": "g", "topic": "penstock.inference.small.standard.requested.v1", "records": 7},
        {"group": "g", "topic": "penstock.usage.recorded.v1", "records": 5, "seconds": 1.0},
    ]
}


class Gateway:
    """Answers, and notes what it was asked."""

    lines_broken = False
    line = LINE
    usage: tuple[dict[str, Any], ...] = ()
    asked: list[tuple[str, dict[str, Any]]]

    def __init__(self, _data: Path | None) -> None:
        Gateway.asked = []

    def get(self, path: str, **query: Any) -> Any:
        self.asked.append((path, query))
        if path == "/v1/lag":
            return LAG
        if path == "/v1/costs/reconciled":
            return {"pools": [POOL]}
        names = query["by"].split(",")
        period = {"since": "2026-11-20T00:00:00Z", "until": "2026-11-21T12:30:00Z"}
        if query.get("cursor"):
            return {"by": names, "lines": [self.line], "engines": [], **period}
        return {"by": names, "lines": [self.line], "engines": [ENGINES], "next": "more", **period}

    def lines(self, path: str, **query: Any) -> Iterator[Any]:
        self.asked.append((path, query))
        yield from ({"usage": usage} for usage in self.usage)
        yield {"engine": {**ENGINES, "engine": "vllm-0", "engine_session": "s", "price_per_hour": "2.60"} | STRETCH}
        if not self.lines_broken:
            yield {"end": True}


STRETCH = {"since": "2026-11-21T11:00:00Z", "until": "2026-11-21T12:00:00Z", "price_version": "1"}


@pytest.fixture(autouse=True)
def _gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "Door", Gateway)
    monkeypatch.setattr(reports, "Door", Gateway)
    monkeypatch.setattr(Gateway, "lines_broken", False)


def penstock(*arguments: str) -> str:
    answer = CliRunner().invoke(app_for(arguments), arguments)
    if isinstance(answer.exception, CommandError):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_costs_are_shown_with_waste_runs_and_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(output, "table", lambda _columns, rows, **_: shown.extend(rows))

    penstock("costs", "--by", "workflow", "--since", "7d")

    line, engines = shown
    assert line == ("audit", 12, 100, 0, 20, 0, "2.6 USD", "0.5", "4 +1 failed", "0.650000", 3, 9, 11, "")
    assert engines[:5] == ("small", "h200-sxm", "2.0000", "50.0 %", "5.200000 USD")
    path, query = Gateway.asked[0]
    assert (path, query["by"], query["since"][:2]) == ("/v1/costs", "workflow", "20")


def test_the_ledger_is_closed_on_one_screen() -> None:
    said = json.loads(penstock("costs", "--reconcile", "--json"))

    assert said["pools"][0]["bill"] == "5.2"
    penstock("costs", "--reconcile")


def test_other_prices_are_told_with_the_difference(tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("{version: new, effective: 2026-12-01, hardware: {h200-sxm: {price_per_hour: 3}}}")

    said = json.loads(penstock("costs", "--by", "workflow", "--prices", str(file), "--json"))

    # two pages of one line: an hour each
    (line,) = said["lines"]
    assert (line["workflow"], line["recorded"], line["repriced"], line["difference"]) == ("audit", "5.2", "6", "0.8")
    assert Gateway.asked[0][1]["by"] == "workflow,kind,model,gpu_type"
    penstock("costs", "--prices", str(file))


def test_prices_by_length_are_told_from_single_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given sums of a managed model, and the requests that they are of, one of another workflow
    file = tmp_path / "new.yaml"
    models = "{m: {input_cost_per_token: 1, output_cost_per_token: 1, input_cost_per_token_above_9_tokens: 2}}"
    file.write_text(f"{{version: new, effective: 2026-12-01, models: {models}}}")
    of_it = {
        "workflow": "audit",
        "kind": "inference",
        "subject": "m",
        "recorded_at": "2026-11-21T10:00:00Z",
        "step": "a",
    }
    cost = {"cost": {"amount": "1", "currency": "USD"}}
    usage = [of_it | cost | {"tokens": {"input": count}} for count in (9, 10)]
    monkeypatch.setattr(Gateway, "line", LINE | {"model": "m", "gpu_type": "", "cost": "1"})
    monkeypatch.setattr(Gateway, "usage", (*usage, usage[0] | {"workflow": "other"}, usage[0] | {"subject": "n"}))

    # when they are priced anew
    arguments = ("costs", "--by", "workflow", "--workflow", "audit", "--prices", str(file), "--json")
    said = json.loads(penstock(*arguments))

    # then each by its own length, over the whole hours that the sums are of
    (line,) = said["lines"]
    assert (line["requests"], line["recorded"], line["repriced"]) == (2, "2", "29")
    path, query = Gateway.asked[-1]
    assert (path, query["since"], query["until"]) == (
        "/v1/costs/entries",
        "2026-11-20T00:00:00Z",
        "2026-11-21T13:00:00+00:00",
    )
    monkeypatch.setattr(Gateway, "lines_broken", True)
    with pytest.raises(CommandError, match="broke off"):
        penstock(*arguments)


def test_an_export_has_usage_and_what_is_nobodys(tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"
    penstock("costs", "export", "--since", "2026-11-01", "-o", str(file))

    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["x_CostKind"], row["BilledCost"]) for row in rows] == [("idle", "2.6"), ("lost", "0.1")]


def test_an_export_that_broke_off_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateway, "lines_broken", True)

    with pytest.raises(CommandError, match="broke off"):
        penstock("costs", "export", "-o", str(tmp_path / "costs.csv"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("costs", "--reconcile", "--prices", "x.yaml"),
        ("costs", "--prices", "nowhere.yaml"),
        ("costs", "--since", "soon"),
        ("costs", "export", "--format", "xlsx", "-o", "x"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        penstock(*arguments)


def test_a_backlog_says_what_it_will_take_or_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(output, "table", lambda _columns, rows, **_: shown.extend(rows))

    penstock("lag")

    assert [row[4:6] for row in shown] == [("18", "0.013 USD"), ("unknown", "unknown"), ("", "")]

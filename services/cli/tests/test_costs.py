"""Tests of what the command makes of costs: moments, other prices."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.prices import PriceList
from services.cli.failures import CommandError
from services.cli.periods import moment
from services.cli.repricing import line_of, needs_entries, read_prices, repriced

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PRICES = PriceList.model_validate(
    {
        "version": "new",
        "effective": "2026-12-01",
        "models": {"managed": {"input_cost_per_token": "0.01", "output_cost_per_token": "0.1"}},
        "hardware": {"h200-sxm": {"price_per_hour": "3600"}},
    }
)


def a_line(**changes: Any) -> dict[str, Any]:
    line = {
        "tenant": "default",
        "kind": "inference",
        "model": "small",
        "gpu_type": "h200-sxm",
        "requests": 3,
        "input_tokens": 10,
        "cached_input_tokens": 5,
        "output_tokens": 2,
        "reasoning_tokens": 1,
        "gpu_seconds": "2.5",
        "cost": "1",
        "currency": "USD",
        "simulated": False,
    }
    return {**line, **changes}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7d", "2026-11-14T12:00:00+00:00"),
        ("90m", "2026-11-21T10:30:00+00:00"),
        ("2026-11-20T10:00:00+01:00", "2026-11-20T10:00:00+01:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        (None, None),
    ],
)
def test_a_moment_is_an_age_or_a_time(text: str | None, wanted: str | None) -> None:
    assert moment(text, "--since", NOW) == wanted


def test_what_is_no_moment_is_refused_with_a_hint() -> None:
    with pytest.raises(CommandError, match="'tomorrow' is no moment"):
        moment("tomorrow", "--since")


def test_engine_time_and_tokens_are_priced_anew() -> None:
    hourly, managed = a_line(), a_line(model="managed", gpu_type="", gpu_seconds="0", cost="0.1")
    task = a_line(kind="task", model="managed", gpu_type="", gpu_seconds="0", cost="0")

    (sums,) = repriced([hourly, managed, task], ["tenant"], PRICES).values()

    # 2.5 seconds at 1 a second; 15 prompt tokens at 0.01 and 3 generated at 0.1
    assert (sums.recorded, sums.repriced, sums.difference) == (Decimal("1.1"), Decimal("2.95"), Decimal("1.85"))
    assert (sums.requests, sums.unpriced) == (9, set())


USAGE: dict[str, Any] = {
    "tenant": "acme",
    "workflow": "audit",
    "version": "1",
    "kind": "inference",
    "subject": "managed",
    "pool": "small",
    "step": "each[3]/read",
    "labels": {"team": "tax"},
    "tokens": {"input": 150, "output": 2},
    "cost": {"amount": "0.5", "currency": "USD", "price_version": "1"},
    "recorded_at": "2026-11-20T23:59:59.5+00:00",
}


def test_a_request_whose_price_depends_on_its_length_is_priced_by_itself() -> None:
    models = {"managed": {"input_cost_per_token": "1", "output_cost_per_token": "1"}}
    models["managed"]["input_cost_per_token_above_100_tokens"] = "2"
    prices = PriceList.model_validate({"version": "long", "effective": "2026-12-01", "models": models})
    of_sums = [a_line(model="managed", gpu_type=""), a_line(), a_line(kind="task", gpu_type="", model="managed")]
    names = ["tenant", "step", "day", "hour", "lane", "label:team"]

    # given a request with a prompt above the length, and one whose label does not count apart
    line = line_of(USAGE, names, {"label:team": {"tax"}})
    other = line_of({**USAGE, "labels": {"team": "legal"}}, names, {"label:team": {"tax"}})

    # then it has the columns that sums have, and its own price
    assert [needs_entries(each, prices) for each in of_sums] == [True, False, False]
    assert line is not None
    columns = ["acme", "each[]/read", "2026-11-20", "2026-11-20T23:00:00Z", "", "tax"]
    assert [line[name] for name in names] == columns
    (sums,) = repriced([line], ["tenant"], prices).values()
    assert (sums.requests, sums.recorded, sums.repriced) == (1, Decimal("0.5"), Decimal(302))
    assert other is not None
    assert other["label:team"] == "(other)"
    assert line_of({**USAGE, "labels": {}}, names, {"label:team": set()}) is None


def test_what_the_list_has_no_price_for_stays_as_it_was_and_is_named() -> None:
    lines = [a_line(gpu_type="l4"), a_line(model="other", gpu_type="", cost="2"), a_line(simulated=True)]

    found = repriced(lines, ["tenant"], PRICES)

    assert found["default", False].repriced == 3
    assert found["default", False].unpriced == {"l4", "other"}
    assert found["default", True].repriced == Decimal("2.5")


def test_a_price_list_in_another_currency_is_refused() -> None:
    with pytest.raises(CommandError, match="recorded in EUR"):
        repriced([a_line(currency="EUR")], ["tenant"], PRICES)


def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("models: [")

    with pytest.raises(CommandError, match="no price list in"):
        read_prices(tmp_path / "p.yaml")

"""Tests of what the command makes of costs: moments, other prices."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock.contracts.prices import PriceList
from services.cli.failures import CommandError
from services.cli.periods import moment
from services.cli.repricing import read_prices, repriced

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

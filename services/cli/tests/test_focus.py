"""Tests of the FOCUS export against the specification's own columns.

focus-1.2.csv beside this file is taken from the tables "Content constraints" of specification/columns/ at tag v1.2 of
the FinOps Open Cost and Usage Specification (CC BY 4.0).
"""

import csv
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.cli.failures import CommandError
from services.cli.focus import COLUMNS, Charges, Issuer, Row
from services.cli.tables import write_csv, write_parquet

SPECIFICATION = {
    row["Column"]: row for row in csv.DictReader(Path(__file__).with_name("focus-1.2.csv").read_text().splitlines())
}
TYPES = {"text": "String", "decimal": "Decimal", "time": "Date/Time", "json": "JSON"}
CONDITIONS_THAT_NEVER_HOLD = {
    "CapacityReservationId",
    "CapacityReservationStatus",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "PricingCurrency",
    "PricingCurrencyContractedUnitPrice",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "RegionId",
    "RegionName",
}
SESSION = "4b3f7f5e-6d0e-4c53-9f0e-2f0c1a6f4a11"
ACCOUNT: dict[str, Any] = {
    "engine": "vllm-0",
    "engine_session": SESSION,
    "pool": "small",
    "simulated": False,
    "gpu_type": "h200-sxm",
    "price_per_hour": "2.60",
    "currency": "USD",
    "price_version": "2026-11-21",
    "since": "2026-11-30T23:59:30Z",
    "until": "2026-12-01T00:00:30Z",
    "idle": "0.0169",
}
USAGE: dict[str, Any] = {
    "request_id": "807e7483-7927-5bea-91a4-f9878e76eb2c",
    "tenant": "acme",
    "run_id": "order-4711",
    "workflow": "audit",
    "version": "3",
    "step": "audit/documents[3]/classify",
    "attempt": 2,
    "labels": {"team": "grün", "cost-centre": "4100"},
    "kind": "inference",
    "status": "succeeded",
    "subject": "smollm2-135m",
    "pool": "small",
    "lane": "batch",
    "engine": "vllm-0",
    "engine_session": SESSION,
    "gpu_type": "h200-sxm",
    "gpu_seconds": "0.200769231",
    "energy_joules": "98.4",
    "tokens": {"input": 112, "cached_input": 300, "output": 18, "reasoning": 0},
    "cost": {"amount": "0.000145000000", "currency": "USD", "price_version": "2026-11-21"},
    "recorded_at": "2026-11-21T09:30:04.525Z",
}
MANAGED = {
    **{name: value for name, value in USAGE.items() if not name.startswith(("gpu", "energy", "engine"))},
    "subject": "gpt-4o",
    "labels": {},
    "cost": {"amount": "0.00123", "currency": "USD", "price_version": "2026-11-21"},
}
TASK = {
    **{name: value for name, value in MANAGED.items() if name not in ("pool", "lane", "tokens")},
    "kind": "task",
    "subject": "read",
    "cost": {"amount": "0", "currency": "USD", "price_version": "none"},
}
POOL = {"pool": "small", "gpu_type": "h200-sxm", "simulated": True, "currency": "USD"}
LIFE = {
    "engine": "vllm-0",
    "engine_session": SESSION,
    "until": "2026-11-21T09:30:00Z",
    "price_per_hour": "2.60",
    "lost": "0.0026",
    "down": "0.0052",
}


def rows() -> Iterator[Row]:
    charges = Charges(Issuer(account="acme-prod", provider="Acme Platform"))
    yield from charges.of_account(ACCOUNT)
    yield charges.of_usage(USAGE)
    yield charges.of_usage(MANAGED)
    yield charges.of_usage(TASK)
    yield from charges.of_life(LIFE, POOL)


def test_every_column_is_the_specifications_and_all_that_apply_are_there() -> None:
    named = {column.name: column for column in COLUMNS if not column.name.startswith("x_")}

    assert named.keys() == SPECIFICATION.keys() - CONDITIONS_THAT_NEVER_HOLD
    for name, column in named.items():
        specified = SPECIFICATION[name]
        assert TYPES[column.kind] == specified["Data type"], name
        assert column.nullable == (specified["Allows nulls"] == "True"), name
    left_out = {SPECIFICATION[name]["Feature level"] for name in CONDITIONS_THAT_NEVER_HOLD}
    assert left_out == {"Conditional"}


def test_rows_have_what_their_columns_promise() -> None:
    types = {"text": str, "json": str, "decimal": Decimal, "time": datetime, "count": int, "flag": bool}
    for row in rows():
        assert row.keys() == {column.name for column in COLUMNS}
        for column in COLUMNS:
            value = row[column.name]
            assert value is not None or column.nullable, column.name
            assert value is None or type(value) is types[column.kind], column.name
            assert value != "", column.name


def test_prices_times_quantities_are_costs() -> None:
    for row in rows():
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            assert abs(row[price] * row["PricingQuantity"] - row[cost]) < Decimal("1E-9")
        assert row["EffectiveCost"] == row["BilledCost"] == row["ListCost"]
        assert (row["PricingUnit"] is None) == (row["PricingQuantity"] is None)
        assert (row["ConsumedUnit"] is None) == (row["ConsumedQuantity"] is None)
        assert row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["BillingPeriodEnd"]
        assert row["SkuId"] is not None
        assert row["SkuPriceId"] is not None


def test_engine_time_managed_tokens_and_tasks_have_units_of_their_own() -> None:
    idle, hourly, managed, task, lost, down = rows()

    assert [row["PricingUnit"] for row in (idle, hourly, managed, task)] == [
        "GPU-Hours",
        "GPU-Hours",
        "Tokens",
        "Requests",
    ]
    assert (hourly["ListUnitPrice"], managed["PricingQuantity"]) == (Decimal("2.60"), 430)
    assert json.loads(hourly["Tags"]) == {"team": "grün", "cost-centre": "4100"}
    assert (managed["Tags"], idle["SubAccountId"], task["SubAccountId"]) == (None, None, "acme")
    assert [row["x_CostKind"] for row in (idle, hourly, lost, down)] == ["idle", "usage", "lost", "down"]
    assert lost["ChargeDescription"] == "simulated: lost time of h200-sxm in pool small"
    assert idle["BillingPeriodEnd"] == datetime(2026, 12, 1, tzinfo=UTC)
    assert (hourly["x_RunId"], hourly["x_Step"], hourly["x_CachedInputTokens"]) == (
        "order-4711",
        "audit/documents[3]/classify",
        300,
    )


def test_an_hour_of_which_no_account_says_what_it_costs_has_the_price_that_its_usage_shows() -> None:
    row = Charges(Issuer()).of_usage(USAGE)

    assert round(row["ListUnitPrice"], 6) == Decimal("2.600000")


def test_csv_has_nothing_for_null_and_no_exponents(tmp_path: Path) -> None:
    file = tmp_path / "costs.csv"

    assert write_csv(rows(), file) == 6

    written = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert list(written[0]) == [column.name for column in COLUMNS]
    assert (written[1]["BilledCost"], written[3]["BilledCost"]) == ("0.000145", "0")
    assert (written[0]["Tags"], written[1]["ChargePeriodStart"]) == ("", "2026-11-21T09:00:00Z")
    assert "E" not in written[1]["PricingQuantity"]
    assert [each.name for each in tmp_path.iterdir()] == ["costs.csv"]


def test_parquet_has_the_types_of_the_specification(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "costs.parquet"

    assert write_parquet(rows(), file) == 6

    read = parquet.read_table(file)
    assert read.column_names == [column.name for column in COLUMNS]
    assert str(read.schema.field("BilledCost").type) == "decimal128(38, 15)"
    assert str(read.schema.field("ChargePeriodStart").type) == "timestamp[us, tz=UTC]"
    assert not read.schema.field("BilledCost").nullable
    assert sum(read.column("BilledCost").to_pylist()) == sum(row["BilledCost"] for row in rows())


def test_without_pyarrow_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(CommandError, match="needs pyarrow") as failure:
        write_parquet(rows(), tmp_path / "costs.parquet")

    assert "penstock[export]" in failure.value.hint


def test_a_file_that_broke_off_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[Row]:
        yield from rows()
        raise CommandError("broke off")

    with pytest.raises(CommandError):
        write_csv(broken(), tmp_path / "costs.csv")

    assert list(tmp_path.iterdir()) == []

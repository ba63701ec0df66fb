"""Owns the ledger as FOCUS 1.2 (FinOps Open Cost and Usage Specification) has it: its columns, and a row per charge.

A charge is a usage record, or time of an accelerator that is nobody's: idle, lost, down. Engine time is priced in
GPU-Hours, managed models in Tokens (at the average of what a call's tokens cost), tools and tasks in Requests. The
tenant is the sub account, labels are tags. Columns whose condition never holds here are left out: regions, commitments,
capacity reservations, a pricing currency of its own. What FOCUS has no column for begins with x_.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

Kind = Literal["text", "decimal", "time", "json", "count", "flag"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column, its type, and whether it may be empty."""

    name: str
    kind: Kind
    nullable: bool = False


COLUMNS: Final = (
    Column("AvailabilityZone", "text", nullable=True),
    Column("BilledCost", "decimal"),
    Column("BillingAccountId", "text"),
    Column("BillingAccountName", "text", nullable=True),
    Column("BillingAccountType", "text"),
    Column("BillingCurrency", "text"),
    Column("BillingPeriodEnd", "time"),
    Column("BillingPeriodStart", "time"),
    Column("ChargeCategory", "text"),
    Column("ChargeClass", "text", nullable=True),
    Column("ChargeDescription", "text", nullable=True),
    Column("ChargeFrequency", "text"),
    Column("ChargePeriodEnd", "time"),
    Column("ChargePeriodStart", "time"),
    Column("ConsumedQuantity", "decimal", nullable=True),
    Column("ConsumedUnit", "text", nullable=True),
    Column("ContractedCost", "decimal"),
    Column("ContractedUnitPrice", "decimal", nullable=True),
    Column("EffectiveCost", "decimal"),
    Column("InvoiceId", "text", nullable=True),
    Column("InvoiceIssuerName", "text"),
    Column("ListCost", "decimal"),
    Column("ListUnitPrice", "decimal", nullable=True),
    Column("PricingCategory", "text", nullable=True),
    Column("PricingQuantity", "decimal", nullable=True),
    Column("PricingUnit", "text", nullable=True),
    Column("ProviderName", "text"),
    Column("PublisherName", "text"),
    Column("ResourceId", "text", nullable=True),
    Column("ResourceName", "text", nullable=True),
    Column("ResourceType", "text", nullable=True),
    Column("ServiceCategory", "text"),
    Column("ServiceName", "text"),
    Column("ServiceSubcategory", "text"),
    Column("SkuId", "text", nullable=True),
    Column("SkuMeter", "text", nullable=True),
    Column("SkuPriceDetails", "json", nullable=True),
    Column("SkuPriceId", "text", nullable=True),
    Column("SubAccountId", "text", nullable=True),
    Column("SubAccountName", "text", nullable=True),
    Column("SubAccountType", "text", nullable=True),
    Column("Tags", "json", nullable=True),
    Column("x_CostKind", "text"),
    Column("x_Simulated", "flag"),
    Column("x_RequestId", "text", nullable=True),
    Column("x_RunId", "text", nullable=True),
    Column("x_Workflow", "text", nullable=True),
    Column("x_WorkflowVersion", "text", nullable=True),
    Column("x_Step", "text", nullable=True),
    Column("x_Attempt", "count", nullable=True),
    Column("x_Status", "text", nullable=True),
    Column("x_Pool", "text", nullable=True),
    Column("x_Lane", "text", nullable=True),
    Column("x_EngineSession", "text", nullable=True),
    Column("x_InputTokens", "count", nullable=True),
    Column("x_CachedInputTokens", "count", nullable=True),
    Column("x_OutputTokens", "count", nullable=True),
    Column("x_ReasoningTokens", "count", nullable=True),
    Column("x_GpuSeconds", "decimal", nullable=True),
    Column("x_EnergyJoules", "decimal", nullable=True),
    Column("x_PriceVersion", "text", nullable=True),
)
Row = dict[str, Any]
"""A value for each column: str, Decimal, datetime, int, bool or None."""

PLACES: Final = Decimal("1E-15")
SECONDS_PER_HOUR: Final = 3600
TOKENS: Final = {
    "x_InputTokens": "input",
    "x_CachedInputTokens": "cached_input",
    "x_OutputTokens": "output",
    "x_ReasoningTokens": "reasoning",
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose bill it is: names that FOCUS asks for and no record has."""

    account: str = "penstock"
    provider: str = "Penstock"


@dataclass(frozen=True, slots=True)
class _Price:
    """What is counted, how much of it, and what one costs."""

    sku: str
    meter: str
    unit: str
    quantity: Decimal
    unit_price: Decimal


class Charges:
    """Makes rows of what the gateway says. Accounts come first: they say what an hour of an engine costs."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer: Final = issuer
        self._per_hour: Final[dict[str, Decimal]] = {}

    def of_account(self, account: Mapping[str, Any]) -> Iterator[Row]:
        """The idle time of a stretch."""
        per_hour = Decimal(account["price_per_hour"])
        self._per_hour[account["engine_session"]] = per_hour
        idle = Decimal(account["idle"])
        if idle:
            at = datetime.fromisoformat(account["since"])
            yield self._unattributed("idle", account, idle, per_hour, at, account["price_version"])

    def of_life(self, life: Mapping[str, Any], pool: Mapping[str, Any]) -> Iterator[Row]:
        """What is known of an engine's life once it has ended: time that was lost, and down after it."""
        until = datetime.fromisoformat(life["until"])
        of_engine = {**pool, "engine": life["engine"], "engine_session": life["engine_session"]}
        for kind in ("lost", "down"):
            cost = Decimal(life[kind])
            if cost:
                yield self._unattributed(kind, of_engine, cost, Decimal(life["price_per_hour"]), until, None)

    def of_usage(self, usage: Mapping[str, Any]) -> Row:
        """One usage record."""
        cost, at = usage["cost"], datetime.fromisoformat(usage["recorded_at"])
        amount = Decimal(cost["amount"])
        price = self._priced(usage, amount)
        tokens = usage.get("tokens") or {}
        simulated = bool(usage.get("simulated"))
        row = self._row(amount, cost["currency"], at, price, cost["price_version"])
        row |= {
            "ChargeDescription": _described(f"{usage['kind']} {usage['subject']} for {usage['step']}", simulated),
            "ResourceId": usage.get("engine") or usage["subject"],
            "ResourceName": usage["subject"],
            "ResourceType": {"inference": "Model", "tool": "Tool"}.get(usage["kind"], "Task"),
            "ServiceSubcategory": "Generative AI" if usage["kind"] == "inference" else "AI Platforms",
            "SubAccountId": usage["tenant"],
            "SubAccountName": usage["tenant"],
            "SubAccountType": "Tenant",
            "Tags": json.dumps(usage["labels"], ensure_ascii=False) if usage.get("labels") else None,
            "x_CostKind": "usage",
            "x_Simulated": simulated,
            "x_RequestId": usage["request_id"],
            "x_RunId": usage["run_id"],
            "x_Workflow": usage["workflow"],
            "x_WorkflowVersion": usage["version"],
            "x_Step": usage["step"],
            "x_Attempt": usage["attempt"],
            "x_Status": usage["status"],
            "x_Pool": usage.get("pool"),
            "x_Lane": usage.get("lane"),
            "x_EngineSession": usage.get("engine_session"),
            "x_GpuSeconds": _decimal(usage.get("gpu_seconds")),
            "x_EnergyJoules": _decimal(usage.get("energy_joules")),
            **{column: tokens.get(bucket, 0) for column, bucket in TOKENS.items()},
        }
        return row

    def _priced(self, usage: Mapping[str, Any], amount: Decimal) -> _Price:
        gpu_type = usage.get("gpu_type")
        if gpu_type:
            quantity = Decimal(usage["gpu_seconds"]) / SECONDS_PER_HOUR
            per_hour = self._per_hour.get(usage.get("engine_session") or "")
            unit_price = _share(amount, quantity) if per_hour is None else per_hour
            return _Price(f"gpu/{gpu_type}", "Engine Time", "GPU-Hours", quantity, unit_price)
        count = sum((usage.get("tokens") or {}).values())
        if usage["kind"] == "inference" and count:
            price = _share(amount, Decimal(count))
            return _Price(f"tokens/{usage['subject']}", "Tokens", "Tokens", Decimal(count), price)
        return _Price(f"{usage['kind']}/{usage['subject']}", "Requests", "Requests", Decimal(1), amount)

    def _unattributed(
        self,
        kind: str,
        engine: Mapping[str, Any],
        cost: Decimal,
        per_hour: Decimal,
        at: datetime,
        version: str | None,
    ) -> Row:
        simulated = bool(engine.get("simulated"))
        hours = _share(cost, per_hour)
        price = _Price(f"gpu/{engine['gpu_type']}", "Engine Time", "GPU-Hours", hours, per_hour)
        return self._row(cost, engine["currency"], at, price, version) | {
            "ChargeDescription": _described(f"{kind} time of {engine['gpu_type']} in pool {engine['pool']}", simulated),
            "ResourceId": engine["engine"] or engine["pool"],
            "ResourceName": engine["engine"] or engine["pool"],
            "ResourceType": "Engine",
            "ServiceSubcategory": "Generative AI",
            "x_CostKind": kind,
            "x_Simulated": simulated,
            "x_Pool": engine["pool"],
            "x_EngineSession": engine["engine_session"],
            "x_GpuSeconds": round(hours * SECONDS_PER_HOUR, 9),
        }

    def _row(self, cost: Decimal, currency: str, at: datetime, price: _Price, version: str | None) -> Row:
        hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        month = hour.replace(day=1, hour=0)
        row: Row = dict.fromkeys(column.name for column in COLUMNS)
        row |= dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost)
        row |= dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), price.unit_price)
        row |= dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), price.quantity.quantize(PLACES))
        row |= dict.fromkeys(("ConsumedUnit", "PricingUnit"), price.unit)
        row |= dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), self._issuer.provider)
        return row | {
            "BillingAccountId": self._issuer.account,
            "BillingAccountName": self._issuer.account,
            "BillingAccountType": "Deployment",
            "BillingCurrency": currency,
            "BillingPeriodStart": month,
            "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
            "ChargeCategory": "Usage",
            "ChargeFrequency": "Usage-Based",
            "ChargePeriodStart": hour,
            "ChargePeriodEnd": hour + timedelta(hours=1),
            "PricingCategory": "Standard",
            "ServiceCategory": "AI and Machine Learning",
            "ServiceName": "Penstock",
            "SkuId": price.sku,
            "SkuMeter": price.meter,
            "SkuPriceId": price.sku if version is None else f"{price.sku}@{version}",
            "x_PriceVersion": version,
        }


def _share(whole: Decimal, of: Decimal) -> Decimal:
    return (whole / of).quantize(PLACES) if of else Decimal(0)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _described(text: str, simulated: bool) -> str:
    return f"simulated: {text}" if simulated else text

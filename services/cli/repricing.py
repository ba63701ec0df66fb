"""Owns what used tokens and GPU-seconds would have cost by another price list.

Most prices are linear, so sums will do. Where a model's price depends on the length of the prompt, each request is
priced by itself, from the ledger's entries.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from penstock.contracts.messages import TokenUsage
from penstock.contracts.prices import PriceList, parsed, token_cost
from services.cli.failures import CommandError

NEEDED: Final = ("kind", "model", "gpu_type")
"""What a line must be told apart by to be priced anew."""
SECONDS_PER_HOUR: Final = 3600
LABEL: Final = "label:"
OTHER: Final = "(other)"
"""Under which the ledger counts values of a label that are too many."""
NUMBERED: Final = re.compile(r"\[[^\]]*\]")
"""Of a step's path: the ledger's sums do not tell items and rounds apart."""


@dataclass(slots=True)
class Repriced:
    """The lines of one combination: what was recorded, what it would have been. `unpriced` kept what was recorded."""

    requests: int = 0
    recorded: Decimal = Decimal(0)
    repriced: Decimal = Decimal(0)
    unpriced: set[str] = field(default_factory=set)

    @property
    def difference(self) -> Decimal:
        """Positive: it would have cost more."""
        return self.repriced - self.recorded


def read_prices(file: Path) -> PriceList:
    """A price list. Raises CommandError."""
    try:
        return parsed(file.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(
            f"no price list in {file}: {error}", hint="the form is services/inference/prices.yaml, or LiteLLM's file"
        ) from None


def needs_entries(line: Mapping[str, Any], prices: PriceList) -> bool:
    """Whether a line's sums do not say what it would cost: the price depends on how long each prompt was."""
    price = None if line.get("gpu_type") or line["kind"] != "inference" else prices.models.get(line["model"])
    return price is not None and bool(price.tiers)


def line_of(usage: Mapping[str, Any], names: Iterable[str], values: Mapping[str, Set[str]]) -> dict[str, Any] | None:
    """The line that one usage record is, with the columns `names`; None where it lacks the label that is asked for.

    `values` are the values that count apart of each label: others count together.
    """
    at = datetime.fromisoformat(usage["recorded_at"]).astimezone(UTC)
    tokens = usage.get("tokens") or {}
    known = {
        **{name: usage.get(name) or "" for name in ("tenant", "workflow", "version", "pool", "lane", "engine")},
        "step": NUMBERED.sub("[]", usage["step"]),
        "day": f"{at:%Y-%m-%d}",
        "hour": f"{at:%Y-%m-%dT%H:00:00Z}",
    }
    for name in names:
        if name.startswith(LABEL):
            value = (usage.get("labels") or {}).get(name.removeprefix(LABEL))
            if value is None:
                return None
            known[name] = value if value in values[name] else OTHER
    return {
        **{name: known[name] for name in names if name in known},
        "kind": usage["kind"],
        "model": usage["subject"],
        "gpu_type": usage.get("gpu_type") or "",
        "requests": 1,
        **{f"{bucket}_tokens": tokens.get(bucket, 0) for bucket in ("input", "cached_input", "output", "reasoning")},
        "cost": usage["cost"]["amount"],
        "currency": usage["cost"]["currency"],
        "simulated": bool(usage.get("simulated")),
    }


def repriced(
    lines: Iterable[Mapping[str, Any]], by: Sequence[str], prices: PriceList
) -> dict[tuple[Any, ...], Repriced]:
    """The lines, told apart by `by` and NEEDED, added up by `by`. Raises CommandError for another currency."""
    found: dict[tuple[Any, ...], Repriced] = {}
    for line in lines:
        if line["currency"] != prices.currency:
            message = f"costs were recorded in {line['currency']}, the price list is in {prices.currency}"
            raise CommandError(message, hint="a price list in the same currency tells the difference")
        sums = found.setdefault((*(line.get(name) for name in by), bool(line.get("simulated"))), Repriced())
        recorded = Decimal(line["cost"])
        price = _price(line, prices)
        sums.requests += line["requests"]
        sums.recorded += recorded
        sums.repriced += recorded if price is None else price
        if price is None and recorded:
            sums.unpriced.add(line.get("gpu_type") or line["model"])
    return found


def _price(line: Mapping[str, Any], prices: PriceList) -> Decimal | None:
    """None where the list has no price for it; tools and tasks cost what they did."""
    gpu_type = line.get("gpu_type")
    if gpu_type:
        hardware = prices.hardware.get(gpu_type)
        return None if hardware is None else Decimal(line["gpu_seconds"]) * hardware.price_per_hour / SECONDS_PER_HOUR
    price = prices.models.get(line["model"]) if line["kind"] == "inference" else None
    if price is None:
        return None
    tokens = TokenUsage(
        input=line["input_tokens"],
        cached_input=line["cached_input_tokens"],
        output=line["output_tokens"],
        reasoning=line["reasoning_tokens"],
    )
    return token_cost(price, tokens)

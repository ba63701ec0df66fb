"""Owns how many values of a label count apart: the first VALUES_MAX of a day, of the first KEYS_MAX labels of a tenant.

A label that holds an order number has as many values as there are runs: what comes after the bound counts together, as
OTHER, so that the sums stay few and still add up. The values of a day are kept in a table, so that all gateways and all
that come after a restart count the same ones; two that meet may let a few more in.
"""

from collections.abc import Mapping, Sequence, Set
from datetime import date
from pathlib import Path
from typing import Any, Final

from penstock.runtime.postgres import load_queries
from services.gateway.read_models.fields import TEXT_MAX
from services.gateway.read_models.usage import UsageRow

VALUES_MAX: Final = 100
KEYS_MAX: Final = 32
OTHER: Final = "(other)"
KEYS: Final = ""
"""The label whose values are the labels themselves: no label is empty."""
DAYS_KEPT: Final = 4

Key = tuple[date, str, str]
"""Day, tenant, label."""
Pairs = list[tuple[str, str]]

_LEDGER: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "ledger.sql")


class LabelValues:
    """The values that count apart, as far as this process knows."""

    def __init__(self) -> None:
        self._known: dict[Key, set[str]] = {}

    async def admitted(self, connection: Any, entries: Sequence[UsageRow]) -> list[tuple[UsageRow, Pairs]]:
        """Each entry with the labels and values that it counts under."""
        asked = [(entry, entry.line[0].date(), entry.line[1], _readable(entry.labels)) for entry in entries]
        keys = {(day, tenant, KEYS) for _, day, tenant, _ in asked}
        keys |= {(day, tenant, label) for _, day, tenant, pairs in asked for label, _ in pairs}
        await self._learn(connection, keys)
        new: dict[tuple[Key, str], None] = {}
        found = []
        for entry, day, tenant, pairs in asked:
            counted: Pairs = []
            for label, value in pairs:
                if self._takes((day, tenant, KEYS), label, KEYS_MAX, new):
                    taken = self._takes((day, tenant, label), value, VALUES_MAX, new)
                    counted.append((label, value if taken else OTHER))
            found.append((entry, counted))
        if new:
            days, tenants, labels, values = zip(*((*key, value) for key, value in sorted(new)), strict=True)
            await connection.execute(_LEDGER["insert_label_values"], days, tenants, labels, values)
        return found

    def _takes(self, key: Key, value: str, values_max: int, new: dict[tuple[Key, str], None]) -> bool:
        known = self._known[key]
        if value in known:
            return True
        if len(known) >= values_max:
            return False
        known.add(value)
        new[key, value] = None
        return True

    async def _learn(self, connection: Any, keys: Set[Key]) -> None:
        new = keys - self._known.keys()
        if not new:
            return
        # A few days at a time: records come late, but not for ever.
        newest = sorted({day for day, _, _ in (*self._known, *new)})[-DAYS_KEPT:]
        self._known = {key: values for key, values in self._known.items() if key in keys or key[0] in newest}
        for key in new:
            self._known[key] = set()
        days, tenants, labels = zip(*new, strict=True)
        for row in await connection.fetch(_LEDGER["read_label_values"], days, tenants, labels):
            self._known[row["day"], row["tenant"], row["label"]].add(row["value"])


def _readable(labels: Mapping[str, Any]) -> Pairs:
    """The labels that fit a key."""
    return [
        (label, value)
        for label, value in labels.items()
        if label and type(value) is str and len(label) + len(value) <= TEXT_MAX
    ]

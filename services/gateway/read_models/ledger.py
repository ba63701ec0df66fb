"""Owns writing the ledger: entries once by their request, sums by hour and label, the lives of engines."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from penstock.runtime.postgres import load_queries
from services.gateway.read_models.fold import Batch
from services.gateway.read_models.labels import LabelValues
from services.gateway.read_models.stretches import StretchRow
from services.gateway.read_models.usage import (
    CURRENCY,
    KIND,
    MODEL_CALL,
    SIMULATED,
    LabelLine,
    Sums,
    UsageRow,
    cost_lines,
    label_line,
)

_LEDGER: Final[Mapping[str, str]] = load_queries(Path(__file__).parents[1] / "sql" / "ledger.sql")
_values: Final = LabelValues()


async def write_usage(connection: Any, batch: Batch, *, again: bool) -> None:
    """The entries, and what was done again elsewhere. Raises UniqueViolationError if one is there, unless `again`."""
    entries: Sequence[UsageRow] = list(batch.usage.values())
    repeats: Sequence[UsageRow] = batch.repeats
    rows = [_usage_row(entry) for entry in entries]
    if again:
        new = {row["request_id"] for row in await connection.fetch(_LEDGER["insert_usage_again"], rows)}
        repeats = [*repeats, *(entry for entry in entries if entry.request_id not in new)]
        entries = [entry for entry in entries if entry.request_id in new]
    else:
        await connection.execute(_LEDGER["insert_usage"], rows)
    repeats = await _repeats(connection, [entry for entry in repeats if entry.engine_session is not None])
    if entries:
        await connection.execute(_LEDGER["add_costs"], *_sums_columns(cost_lines(entries)))
        labelled = [entry for entry in entries if entry.labels]
        if labelled:
            await _write_labels(connection, labelled)
    sessions = _session_columns(entries, repeats)
    if sessions[0]:
        await connection.execute(_LEDGER["add_engine_usage"], *sessions)


async def write_stretches(connection: Any, rows: Sequence[StretchRow]) -> None:
    """The stretches that are new, and the lives that they belong to."""
    ordered = sorted(rows, key=lambda row: (row.engine_session.bytes, row.sequence))
    columns = [[_text_if_decimal(getattr(row, name)) for row in ordered] for name in StretchRow.__struct_fields__]
    await connection.execute(_LEDGER["insert_stretches"], *columns)


async def label_lines(connection: Any, entries: Sequence[UsageRow]) -> Iterable[tuple[LabelLine, UsageRow]]:
    """Each entry under each of its labels, where the label counts at all; values past the bound count together."""
    return [
        (label_line(entry.line, label, value), entry)
        for entry, pairs in await _values.admitted(connection, entries)
        for label, value in pairs
    ]


async def _write_labels(connection: Any, entries: Sequence[UsageRow]) -> None:
    lines: dict[LabelLine, Sums] = {}
    for line, entry in await label_lines(connection, entries):
        lines.setdefault(line, Sums()).add(entry)
    if lines:
        await connection.execute(_LEDGER["add_label_costs"], *_sums_columns(lines))


async def _repeats(connection: Any, entries: Sequence[UsageRow]) -> Sequence[UsageRow]:
    if not entries:
        return ()
    found = await connection.fetch(
        _LEDGER["insert_repeats"],
        [entry.run_key for entry in entries],
        [entry.request_id for entry in entries],
        [entry.engine_session for entry in entries],
        [entry.recorded_at for entry in entries],
        [format(entry.cost, "f") for entry in entries],
        [entry.body for entry in entries],
    )
    new = {(row["request_id"], str(row["engine_session"])) for row in found}
    return [entry for entry in entries if (entry.request_id, entry.engine_session) in new]


def _usage_row(entry: UsageRow) -> tuple[Any, ...]:
    return (
        entry.run_key,
        entry.request_id,
        entry.recorded_at.timestamp(),
        format(entry.cost, "f"),
        entry.line[CURRENCY],
        *entry.tokens,
        entry.failed,
        entry.line[KIND] == MODEL_CALL,
        entry.line[SIMULATED],
        entry.engine_session,
        entry.body,
    )


def _sums_columns(lines: Mapping[Any, Sums]) -> tuple[list[Any], ...]:
    # In the order of their keys: two instances that meet wait for each other, never in a circle.
    columns = zip(*((*line, *lines[line].columns()) for line in sorted(lines)), strict=True)
    return tuple(list(column) for column in columns)


def _session_columns(entries: Sequence[UsageRow], again: Sequence[UsageRow]) -> tuple[list[Any], ...]:
    sessions: dict[str, tuple[int, Decimal, int, Decimal, datetime]] = {}
    for repeated, rows in ((False, entries), (True, again)):
        for entry in rows:
            if entry.engine_session is None:
                continue
            requests, cost, requests_again, cost_again, last_at = sessions.get(
                entry.engine_session, (0, Decimal(0), 0, Decimal(0), entry.recorded_at)
            )
            if repeated:
                requests_again, cost_again = requests_again + 1, cost_again + entry.cost
            else:
                requests, cost = requests + 1, cost + entry.cost
            last_at = max(last_at, entry.recorded_at)
            sessions[entry.engine_session] = (requests, cost, requests_again, cost_again, last_at)
    ordered = sorted(sessions.items())
    return (
        [session for session, _ in ordered],
        [sums[0] for _, sums in ordered],
        [format(sums[1], "f") for _, sums in ordered],
        [sums[2] for _, sums in ordered],
        [format(sums[3], "f") for _, sums in ordered],
        [sums[4] for _, sums in ordered],
    )


def _text_if_decimal(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value

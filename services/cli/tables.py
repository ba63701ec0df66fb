"""Owns writing rows to a file: CSV as it is read everywhere, Parquet with its types; whole or not at all."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from services.cli.failures import CommandError
from services.cli.focus import COLUMNS, Kind, Row

ROWS_AT_ONCE: Final = 10_000


class Write(Protocol):
    """Writes rows to a file; answers how many."""

    def __call__(self, rows: Iterable[Row], file: Path) -> int:
        """Raises CommandError."""
        ...


def write_csv(rows: Iterable[Row], file: Path) -> int:
    """Nothing for what is null, numbers without an exponent, times in UTC."""
    count = 0
    with _whole(file) as part, part.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(column.name for column in COLUMNS)
        for row in rows:
            writer.writerow(_text(row[column.name]) for column in COLUMNS)
            count += 1
    return count


def write_parquet(rows: Iterable[Row], file: Path) -> int:
    """Needs pyarrow."""
    try:
        import pyarrow as arrow  # an extra: imported where it is used
        import pyarrow.parquet as parquet
    except ImportError:
        raise CommandError(
            "Parquet needs pyarrow, which is not installed",
            hint="pip install 'penstock[export]', or --format focus-csv",
        ) from None
    types: dict[Kind, Any] = {
        "text": arrow.string(),
        "json": arrow.string(),
        "decimal": arrow.decimal128(38, 15),
        "time": arrow.timestamp("us", tz="UTC"),
        "count": arrow.int64(),
        "flag": arrow.bool_(),
    }
    schema = arrow.schema([arrow.field(each.name, types[each.kind], nullable=each.nullable) for each in COLUMNS])
    count = 0
    with _whole(file) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        for batch in _batches(rows):
            columns = [[row[column.name] for row in batch] for column in COLUMNS]
            writer.write_table(
                arrow.table(
                    [arrow.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)],
                    schema=schema,
                )
            )
            count += len(batch)
    return count


WRITERS: Final[dict[str, Write]] = {"focus-csv": write_csv, "focus-parquet": write_parquet}


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A name beside the file's own, which it gets when everything is in it."""
    part = file.with_name(file.name + ".part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _batches(rows: Iterable[Row]) -> Iterator[Sequence[Row]]:
    left = iter(rows)
    while batch := list(islice(left, ROWS_AT_ONCE)):
        yield batch


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Decimal():
            return format(value.normalize() if value else Decimal(0), "f")
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return str(value)

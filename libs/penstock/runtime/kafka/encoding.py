"""Owns how fast requests are written and answers read: fields of a fixed width go together.

aiokafka writes and reads a message field by field, four calls each. What is said stays the same to the byte.
"""

import struct
from collections.abc import Sequence
from io import BytesIO
from itertools import groupby
from typing import Any, Final

from aiokafka.protocol import types
from aiokafka.protocol.struct import Struct
from aiokafka.protocol.types import Schema

_LETTERS: Final[dict[Any, str]] = {
    types.Int8: "b",
    types.Int16: "h",
    types.Int32: "i",
    types.UInt32: "I",
    types.Int64: "q",
    types.Float64: "d",
    types.Boolean: "?",
}

_Step = tuple[struct.Struct | None, int, Any]
"""So many fields of a fixed width, or one of another kind."""


def _steps(schema: Schema) -> list[_Step]:
    """How a message of this schema is written and read; worked out once."""
    known: list[_Step] | None = vars(schema).get("_penstock_steps")
    if known is not None:
        return known
    steps: list[_Step] = []
    for is_fixed, run in groupby(schema.fields, key=lambda field: isinstance(field, type) and field in _LETTERS):
        fields = list(run)
        if is_fixed:
            steps.append((struct.Struct(">" + "".join(_LETTERS[field] for field in fields)), len(fields), None))
        else:
            steps.extend((None, 1, field) for field in fields)
    vars(schema)["_penstock_steps"] = steps
    return steps


def _encode(schema: Schema, item: Sequence[Any]) -> bytes:
    if len(item) != len(schema.fields):
        raise ValueError("Item field count does not match Schema")
    pieces: list[bytes] = []
    at = 0
    for fixed, count, field in _steps(schema):
        if fixed is None:
            pieces.append(field.encode(item[at]))
        else:
            try:
                pieces.append(fixed.pack(*item[at : at + count]))
            except struct.error as error:
                raise ValueError(f"Fields {schema.names[at : at + count]}: {error}") from error
        at += count
    return b"".join(pieces)


def _decode(schema: Schema, data: BytesIO) -> tuple[Any, ...]:
    values: list[Any] = []
    for fixed, _, field in _steps(schema):
        if fixed is None:
            values.append(field.decode(data))
        else:
            try:
                values += fixed.unpack(data.read(fixed.size))
            except struct.error as error:
                raise ValueError(f"The message ends within {schema.names}: {error}") from error
    return tuple(values)


def _decode_struct(cls: type[Struct], data: BytesIO | bytes) -> Struct:
    return cls(*_decode(cls.SCHEMA, BytesIO(data) if isinstance(data, bytes) else data))


def install() -> None:
    """Make every client of this process write and read so. Does nothing where it is done."""
    Schema.encode = _encode
    Schema.decode = _decode
    Struct.decode = classmethod(_decode_struct)

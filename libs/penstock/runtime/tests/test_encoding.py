"""Owns the proof that requests and answers say to the byte what aiokafka says, however they are written."""

from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol import api, commit, coordination, fetch, group, metadata, offset, produce, types
from aiokafka.protocol.struct import Struct
from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.kafka import encoding
from penstock.runtime.kafka.broker import KafkaBroker

_KINDS: dict[Any, st.SearchStrategy[Any]] = {
    types.Int8: st.integers(-(2**7), 2**7 - 1),
    types.Int16: st.integers(-(2**15), 2**15 - 1),
    types.Int32: st.integers(-(2**31), 2**31 - 1),
    types.UInt32: st.integers(0, 2**32 - 1),
    types.Int64: st.integers(-(2**63), 2**63 - 1),
    types.Float64: st.floats(allow_nan=False),
    types.Boolean: st.booleans(),
    types.Bytes: st.none() | st.binary(max_size=5),
    types.CompactBytes: st.none() | st.binary(max_size=5),
    types.TaggedFields: st.just({}),
    types.VarInt32: st.integers(0, 100),
    types.VarInt64: st.integers(0, 60),
    types.UnsignedVarInt32: st.integers(0, 2**28),
}


def written_as_aiokafka_does(kind: Any, value: Any) -> bytes:
    """Field by field."""
    pieces: list[bytes]
    if isinstance(kind, types.Schema):
        pieces = [written_as_aiokafka_does(each, part) for each, part in zip(kind.fields, value, strict=True)]
    elif isinstance(kind, types.Array) and value is not None:
        is_compact = isinstance(kind, types.CompactArray)
        head = types.UnsignedVarInt32.encode(len(value) + 1) if is_compact else types.Int32.encode(len(value))
        pieces = [head, *(written_as_aiokafka_does(kind.array_of, each) for each in value)]
    else:
        pieces = [kind.encode(value)]
    return b"".join(pieces)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """What such a field can hold."""
    if isinstance(kind, types.Schema):
        return st.tuples(*map(values_of, kind.fields))
    if isinstance(kind, types.Array):
        return st.lists(values_of(kind.array_of), max_size=2) | st.none()
    if isinstance(kind, types.String):
        return st.none() | st.text(max_size=5)
    return _KINDS[kind]


MESSAGES: list[Any] = [
    each
    for module in (api, commit, coordination, fetch, group, metadata, offset, produce)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, Struct) and vars(each).get("SCHEMA") is not None
]


@given(data=st.data())
def test_what_is_said_stays_the_same(data: st.DataObject) -> None:
    """Given any message of the protocol, when it is written and read, then the bytes and the values are aiokafka's."""
    message = data.draw(st.sampled_from(MESSAGES))
    values = data.draw(values_of(message.SCHEMA))

    written = message.SCHEMA.encode(values)

    assert written == written_as_aiokafka_does(message.SCHEMA, values)
    read = BytesIO(written)
    assert message.SCHEMA.decode(read) == values
    assert not read.read()


def test_what_is_no_message_is_told_as_before() -> None:
    """Given values that do not fit and bytes that end too soon, then both are a ValueError."""
    schema = produce.ProduceRequest_v3.SCHEMA
    refused: tuple[tuple[Any, ...], ...] = ((None, 1), (None, 1, 2**40, []))
    for wrong in refused:
        with pytest.raises(ValueError, match=r"Schema|Fields"):
            schema.encode(wrong)
    with pytest.raises(ValueError, match="ends within"):
        schema.decode(BytesIO(b"\xff\xff\x00"))


def test_all_of_the_process_is_written_so() -> None:
    """Guard: importing the broker, as every client does, is enough."""
    assert KafkaBroker.__module__ == "penstock.runtime.kafka.broker"
    assert types.Schema.encode is encoding._encode
    assert api.ResponseHeader_v0.decode(b"\0\0\0\7").correlation_id == 7

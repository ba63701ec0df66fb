"""Owns the reading of records whose header names are not UTF-8: a partition must move on past whatever is in it.

Kafka calls a header's name a string and checks nothing; aiokafka raises UnicodeDecodeError at every fetch of such a
record, for ever. Here the batch is read a second time in Python, and such a name comes out with its odd bytes written
as `\\xff`: no header that anybody looks for, so that it is passed over like any other unknown one.
"""

from collections.abc import Iterator
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy

_MAGIC_V2 = 2


class _Buffer(bytearray):
    """Bytes that decode whatever is in them."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        part = super().__getitem__(place)
        return part if isinstance(part, int) else _Buffer(part)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002  # strict is what aiokafka asks for
        return super().decode(encoding, "backslashreplace")


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]  # final for type checkers only
    def __init__(self, buffer: memoryview) -> None:
        super().__init__(buffer)
        self._buffer = _Buffer(buffer)

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Buffer(self._buffer)


class _LenientRecords(_MemoryRecordsPy):  # type: ignore[misc]  # final for type checkers only
    def next_batch(self, *_: int) -> Any:
        this = self._next_slice
        if this is None:
            return None
        self._cache_next()
        magic = this[self.MAGIC_OFFSET]
        return _Batch(this) if magic >= _MAGIC_V2 else LegacyRecordBatch(this, magic)


class _Records:
    """A fetched partition's batches, and the bytes they are read from."""

    __slots__ = ("data", "has_next", "next_batch", "size_in_bytes")

    def __init__(self, data: bytes) -> None:
        records = MemoryRecords(data)
        self.data = data
        self.has_next = records.has_next
        self.next_batch = records.next_batch
        self.size_in_bytes = records.size_in_bytes


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    _records: Any

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from super()._unpack_records()
        except UnicodeDecodeError:
            self._records = _LenientRecords(self._records.data)
            yield from super()._unpack_records()  # what was handed out before is skipped by its offset


def install() -> None:
    """Make every consumer of this process read so. Does nothing where it is done."""
    fetcher.MemoryRecords = _Records
    fetcher.PartitionRecords = _PartitionRecords

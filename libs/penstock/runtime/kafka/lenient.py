"""Owns the reading of fetched bytes: records as bare as `Received`, and a partition that moves on whatever is in it.

aiokafka makes four fields of a record that nobody here asks for, and passes each through two iterators on its way; at
saturation that is half of what reading costs.

Kafka calls a header's name a string and checks nothing; aiokafka raises UnicodeDecodeError at every fetch of such a
record, for ever. Here the batch is read a second time in Python, and such a name comes out with its odd bytes written
as `\\xff`: no header that anybody looks for, so that it is passed over like any other unknown one.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
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


class Record:
    """A record as it was fetched: a `Received`."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.value = value
        self.headers = headers

    def __repr__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka has no types
    """Those of one partition. Transactions are not looked at: nobody here reads committed ones only."""

    _records: Any
    next_fetch_offset: int

    def __iter__(self) -> Iterator[Record]:
        return self._records_iterator  # type: ignore[no-any-return]  # the generator itself: one call less per record

    def _unpack_records(self) -> Iterator[Record]:
        try:
            yield from self._unpack(self._records)
        except UnicodeDecodeError:
            yield from self._unpack(_LenientRecords(self._records.data))  # what was handed out is skipped by its offset

    def _unpack(self, records: Any) -> Iterator[Record]:
        topic, partition = self._tp
        while records.has_next():
            batch = records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not batch.is_control_batch:
                for each in batch:
                    offset = each.offset
                    if offset >= self.next_fetch_offset:
                        self.next_fetch_offset = offset + 1
                        yield Record(
                            topic, partition, offset, each.timestamp, each.key, each.value, tuple(each.headers)
                        )
            # Past what compaction took from its end, and never back where batches are read again.
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]  # aiokafka has no types
    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Record]:
        """What was fetched, up to so many."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        records = list(islice(self._partition_records, max_records))
        self._update_position()
        if max_records is None or len(records) < max_records:
            self._partition_records = None
        return records


def install() -> None:
    """Make every consumer of this process read so. Does nothing where it is done."""
    fetcher.MemoryRecords = _Records
    fetcher.PartitionRecords = _PartitionRecords
    fetcher.FetchResult = _FetchResult

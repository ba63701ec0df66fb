"""Owns the outbox: how decided records are packed into a row, and which rows the broker has acknowledged."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import cramjam
import ormsgpack

from penstock.contracts.envelope import Outgoing
from services.orchestrator.shell.store import OutboxRow

_LZ4: Final = b"\xc1"
"""Begins a row that is compressed: no MessagePack begins with it. Rows of before are plain MessagePack."""


class Sender(Protocol):
    """What is needed of a publisher."""

    def send(self, records: Sequence[Outgoing]) -> "asyncio.Future[None]":
        """Queue records in order; resolves when all are acknowledged."""


def pack(records: Sequence[Outgoing]) -> bytes:
    """The records of one home and batch as one value; see `outbox` in the migrations for the form.

    Records of one batch say the same names again and again: compressing takes about 1.5 µs for each of them, and saves
    several times that where the row is sent, logged, stored and deleted again.
    """
    plain = ormsgpack.packb([(r.topic, r.partition, r.key, r.value, r.headers) for r in records])
    return b"".join((_LZ4, cramjam.lz4.compress_block(plain)))


def unpack(packed: bytes) -> list[Outgoing]:
    """What `pack` was given."""
    plain = bytes(cramjam.lz4.decompress_block(packed[1:])) if packed.startswith(_LZ4) else packed
    return [
        Outgoing(topic=topic, partition=partition, key=key, value=value, headers=[(name, raw) for name, raw in headers])
        for topic, partition, key, value, headers in ormsgpack.unpackb(plain)
    ]


class Unacknowledged:
    """Sends on their way to the broker, in order, and the rows that can be deleted once they have arrived.

    A send that fails for good surfaces at the next `collect` or `room`; its row stays and the next owner sends it.
    """

    def __init__(self, sends_max: int) -> None:
        self._sends_max = sends_max
        self._pending: deque[tuple[asyncio.Future[None], Sequence[OutboxRow]]] = deque()
        self._acknowledged: list[OutboxRow] = []

    def add(self, sent: asyncio.Future[None], rows: Sequence[OutboxRow]) -> None:
        """A batch's records are on their way."""
        self._pending.append((sent, rows))

    async def room(self) -> None:
        """Wait until another send may start: memory stays bounded while the broker is away."""
        while len(self._pending) >= self._sends_max:
            await self._pending[0][0]
            self._sweep()

    async def flush(self) -> None:
        """Wait until everything has arrived."""
        while self._pending:
            await self._pending[0][0]
            self._sweep()

    def collect(self) -> list[OutboxRow]:
        """The rows acknowledged since the last call that kept them; give them back with `keep` if not deleted."""
        self._sweep()
        rows, self._acknowledged = self._acknowledged, []
        return rows

    def keep(self, rows: Iterable[OutboxRow]) -> None:
        """These were collected but could not be deleted yet."""
        self._acknowledged.extend(rows)

    @property
    def has_rows(self) -> bool:
        """Whether there are rows to delete now or once they have arrived."""
        return bool(self._acknowledged or self._pending)

    def _sweep(self) -> None:
        while self._pending and self._pending[0][0].done():
            sent, rows = self._pending.popleft()
            sent.result()
            self._acknowledged.extend(rows)

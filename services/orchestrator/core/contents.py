"""Owns what decisions know of blobs: contents as far as the shell has read them, and why others cannot be read."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock.contracts.blobs import MARK, Reference
from penstock.workflow.whole import ContentNeededError, UnreadableError

_Key = tuple[str, str, int]
"""With the size that a reference says: one that says another is not to be believed, nor to spoil it for the others."""


@dataclass(frozen=True, slots=True)
class _Content:
    value: Any
    size_bytes: int
    fault: str | None = None


class Contents:
    """What references stand for, by tenant. Contents never change, so it only matters which are known."""

    def __init__(self, bytes_max: int, *, stores: bool = False) -> None:
        self.stores: Final = stores
        """Whether what decisions put together may be larger than what travels: the shell stores it."""
        self._bytes_max: Final = bytes_max
        self._held: OrderedDict[_Key, _Content] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much is held, as JSON."""
        return self._size_bytes

    def put(self, tenant: str, reference: Reference, value: Any) -> None:
        """What a reference stands for; it must not be changed from here on."""
        self._keep((tenant, reference.digest, reference.size_bytes), _Content(value, reference.size_bytes))

    def refuse(self, tenant: str, reference: Reference, fault: str) -> None:
        """Why what a reference stands for cannot be had."""
        self._keep((tenant, reference.digest, reference.size_bytes), _Content(None, 0, fault))

    def find(self, tenant: str, references: Sequence[Reference]) -> dict[Reference, Any]:
        """What these stand for. Raises ContentNeededError with all that are not known, else UnreadableError."""
        missing = [each for each in references if (tenant, each.digest, each.size_bytes) not in self._held]
        if missing:
            raise ContentNeededError(tenant, missing)
        found: dict[Reference, Any] = {}
        for reference in references:
            key = (tenant, reference.digest, reference.size_bytes)
            self._held.move_to_end(key)
            content = self._held[key]
            if content.fault is not None:
                raise UnreadableError(content.fault)
            found[reference] = content.value
        return found

    def trim(self) -> None:
        """Forget what was used longest ago, and every fault: a blob may be there the next time.

        Called between batches, so that a batch never loses what it was given.
        """
        for key in [key for key, content in self._held.items() if content.fault is not None]:
            del self._held[key]
        while self._size_bytes > self._bytes_max:
            _, dropped = self._held.popitem(last=False)
            self._size_bytes -= dropped.size_bytes

    def _keep(self, key: _Key, content: _Content) -> None:
        before = self._held.pop(key, None)
        self._size_bytes += content.size_bytes - (0 if before is None else before.size_bytes)
        self._held[key] = content


class RunContents:
    """What the references of one run stand for: those of its tenant, and no other's."""

    __slots__ = ("_contents", "_tenant", "refers")

    def __init__(self, contents: Contents, tenant: str, *, refers: bool) -> None:
        self._contents = contents
        self._tenant = tenant
        self.refers = refers
        """Whether any value of the run may hold a reference."""

    @property
    def stores(self) -> bool:
        """See Contents."""
        return self._contents.stores

    def find(self, references: Sequence[Reference]) -> dict[Reference, Any]:
        """See Contents."""
        return self._contents.find(self._tenant, references)

    def look(self, encoded: bytes) -> None:
        """A value came in: whether it holds a reference shows in its JSON."""
        self.refers = self.refers or MARK in encoded

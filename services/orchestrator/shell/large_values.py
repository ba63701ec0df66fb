"""Owns large values at the orchestrator: what decisions need of blobs is read for them, large inputs are put away."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from penstock.contracts.blobs import INLINE_BYTES_MAX, Reference
from penstock.runtime.blobs import CALLS_MAX, Blobs, parsed
from penstock.runtime.errors import Permanent
from penstock.workflow.whole import ContentNeededError
from services.orchestrator.core.contents import Contents
from services.orchestrator.shell.inbox import Input, Requested
from services.orchestrator.shell.putting_away import PutAway
from services.orchestrator.shell.store import Alarm
from services.orchestrator.shell.telemetry import OrchestratorEvent

log = structlog.get_logger()

CONTENTS_BYTES_MAX: Final = 64 * 1024 * 1024
"""JSON bytes of contents that are kept from batch to batch."""
BATCH_BYTES_MAX: Final = 256 * 1024 * 1024
"""JSON bytes that one batch may look into; one that needs more is decided in parts."""


class TooMuchAtOnceError(Exception):
    """What a batch's decisions look into would be too much to hold: it is to be decided in parts."""


def halves(inputs: Sequence[Input], due: Sequence[Alarm]) -> Iterator[tuple[Sequence[Input], Sequence[Alarm]]]:
    """A batch in two, in its order: inputs first, then alarms."""
    middle = (len(inputs) + len(due)) // 2
    yield inputs[:middle], due[: max(0, middle - len(inputs))]
    yield inputs[middle:], due[max(0, middle - len(inputs)) :]


class LargeValues:
    """The contents that decisions have, and the store that they come from."""

    def __init__(
        self, blobs: Blobs, bytes_max: int = CONTENTS_BYTES_MAX, batch_bytes_max: int = BATCH_BYTES_MAX
    ) -> None:
        self._blobs: Final = blobs
        self._batch_bytes_max: Final = batch_bytes_max
        self.contents: Final = Contents(bytes_max, stores=blobs.there)

    async def read(self, needed: Sequence[ContentNeededError], *, alone: bool = True) -> None:
        """What decisions could not be made without. What cannot be read at all is known as such.

        Raises Unavailable, and TooMuchAtOnceError where it is more than a batch may hold, unless one input is `alone`.
        """
        wanted = {(each.tenant, reference) for each in needed for reference in each.references}
        size_bytes = self.contents.size_bytes + sum(reference.size_bytes for _, reference in wanted)
        if size_bytes > self._batch_bytes_max and not alone:
            raise TooMuchAtOnceError
        places = asyncio.Semaphore(CALLS_MAX)

        async def read(tenant: str, reference: Reference) -> None:
            async with places:
                try:
                    value = parsed(reference, await self._blobs.read(reference, tenant))
                except Permanent as error:
                    log.warning(OrchestratorEvent.BLOB_UNREADABLE, tenant=tenant, reason=str(error))
                    self.contents.refuse(tenant, reference, str(error))
                else:
                    self.contents.put(tenant, reference, value)

        await asyncio.gather(*(read(tenant, reference) for tenant, reference in wanted))

    async def store(self, away: PutAway) -> None:
        """What a batch put together is stored before the batch is written, and so before anybody is told of it.

        Raises Unavailable.
        """
        for tenant, contents in away.contents.items():
            await self._blobs.write_all(contents, tenant)

    async def smaller(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """The inputs, with what runs are asked for small: a plain producer sends it whole. Raises Unavailable."""
        if not self._blobs.there:
            return inputs
        return [await self._smaller(given) if isinstance(given, Requested) else given for given in inputs]

    async def _smaller(self, given: Requested) -> Requested:
        if len(given.record.value or b"") <= INLINE_BYTES_MAX:
            return given
        try:
            value = await self._blobs.stored(given.request.input, given.tenant, "input")
        except TypeError:
            return given  # not portable JSON: the decision says so
        return given._replace(request=given.request.model_copy(update={"input": value}))

"""Owns when batches leave: at once, where nothing of theirs is on its way.

aiokafka's sender is a task that waits for a set of futures: between a batch and the bytes on the socket lie three
rounds of the loop, and as many between an answer and the next request. Here whoever adds batches starts their request;
the task is left for what has to be waited for: the producer's id, and partitions without a known leader.
"""

import asyncio

from aiokafka.errors import KafkaError
from aiokafka.producer.sender import Sender
from aiokafka.util import create_task


class PromptSender(Sender):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's sender, for an idempotent producer without transactions that has not started."""

    def __init__(self, like: Sender) -> None:
        self.__dict__.update(like.__dict__)
        self._requests: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    def start_ready(self) -> bool:
        """Send what is ready to nodes that nothing is on its way to. Whether a partition's leader is not known."""
        if not self._txn_manager.has_pid():
            return False  # the task waits for it, and looks again
        by_node, is_unknown = self._message_accumulator.drain_by_nodes(self._in_flight, self._muted_partitions)
        for node_id, batches in by_node.items():
            self._in_flight.add(node_id)
            self._muted_partitions.update(batches)
            request = create_task(self._send_produce_req(node_id, batches))
            self._requests.add(request)
            request.add_done_callback(self._ended)
        return bool(is_unknown)

    def _ended(self, request: "asyncio.Task[None]") -> None:
        self._requests.discard(request)
        if request.cancelled():
            return
        error = request.exception()
        if error is not None or self._message_accumulator._batches:  # else there is nothing to look at
            self._error = self._error or error
            self._wake()

    def _wake(self) -> None:
        waiter = self._message_accumulator.waiter()
        if not waiter.done():
            waiter.set_result(None)

    async def _sender_routine(self) -> None:
        try:
            while self._error is None:
                await self._maybe_wait_for_pid()
                if self.start_ready():
                    news = {self.client.force_metadata_update(), self._message_accumulator.waiter()}
                    await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await self._message_accumulator.waiter()
        except asyncio.CancelledError:  # it was closed: what is on its way is waited for
            if self._requests:
                await asyncio.wait(self._requests)
            return
        raise KafkaError(f"a request broke: {self._error!r}") from self._error

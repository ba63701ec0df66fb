"""Owns records from their answer to its acknowledgement: what is answered together is sent and settled together.

A record whose outputs are refused is set apart, and the others in its company are not: it is sent once more by itself,
which tells why, and then it is a dead letter.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from penstock.contracts.envelope import Outgoing
from penstock.runtime.errors import NotAcknowledged
from penstock.runtime.kafka.attempts import REPUBLISH_SECONDS, Attempts, Outcome
from penstock.runtime.kafka.epoch import Delivery, Host
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.recent import Recent


class Settling:
    """Sends what was answered, and tells what is finished."""

    def __init__(self, host: Host, publisher: Publisher, attempts: Attempts, recent: Recent) -> None:
        self._host = host
        self._publisher = publisher
        self._attempts = attempts
        self._recent = recent
        self._answered: list[Delivery] = []
        self._due = self._stopped = False

    def stop(self) -> None:
        """Nobody is there any more to send again or to bury: what is refused from now on stays open."""
        self._stopped = True

    def add(self, delivery: Delivery) -> None:
        """Its outputs are there; whoever adds sees to it that they are sent."""
        self._answered.append(delivery)

    def send_soon(self) -> None:
        """Send in the loop's next round, with all that is answered in this one."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._send_due, context=self._host.context)

    def send(self) -> None:
        """Send what was added, at once where it is not to be sent soon."""
        if self._answered and not self._due:
            answered, self._answered = self._answered, []
            self._send(answered)

    def _send_due(self) -> None:
        self._due = False
        self.send()

    def _send(self, deliveries: list[Delivery]) -> None:
        try:
            sent = self._publisher.send([output for each in deliveries for output in each.outputs])
        except Exception as error:  # noqa: BLE001  # handlers may answer anything: what is no record is set apart
            if len(deliveries) == 1:
                self._host.spawn(deliveries[0], self._bury(deliveries[0], error))
            else:
                for each in deliveries:
                    self._send([each])
        else:
            sent.add_done_callback(partial(self._settle, deliveries), context=self._host.context)

    def _settle(self, deliveries: list[Delivery], sent: "asyncio.Future[None]") -> None:
        try:
            error = sent.exception()
            if error is None:
                self._acknowledged(deliveries)
            elif self._stopped:
                return
            elif isinstance(error, NotAcknowledged):
                self._set_apart(deliveries, error)
            else:
                self._host.fail(error)
        except Exception as error:  # noqa: BLE001  # the loop would only log it, and these records stay open for ever
            self._host.fail(error)

    def _set_apart(self, deliveries: list[Delivery], error: NotAcknowledged) -> None:
        refused = set(map(id, error.records))
        whole = [each for each in deliveries if refused.isdisjoint(map(id, each.outputs))]
        self._acknowledged(whole)
        for each in deliveries:
            outputs = [output for output in each.outputs if id(output) in refused]
            if outputs and error.permanent and len(deliveries) == 1:
                self._host.spawn(each, self._bury(each, error))
            elif outputs:
                self._host.spawn(each, self._again(each, outputs, 0.0 if error.permanent else REPUBLISH_SECONDS))

    async def _again(self, delivery: Delivery, outputs: Sequence[Outgoing], after_seconds: float) -> None:
        await asyncio.sleep(after_seconds)
        try:
            await self._attempts.publish(outputs)
        except NotAcknowledged as error:
            await self._bury(delivery, error)
        else:
            self._acknowledged([delivery])

    async def _bury(self, delivery: Delivery, error: Exception) -> None:
        await self._attempts.refused(delivery.record, error)
        self.dead_lettered(delivery)

    def dead_lettered(self, delivery: Delivery) -> None:
        """Its dead letter is written."""
        delivery.outcome = Outcome.DEAD_LETTERED
        if delivery.key is not None:
            self._recent.end(delivery.key)
        self._host.finished([delivery])

    def _acknowledged(self, deliveries: list[Delivery]) -> None:
        recent = self._recent
        for each in deliveries:
            if each.key is not None:
                recent.remember(each.key, each.outputs)
                recent.end(each.key)
        self._host.finished(deliveries)

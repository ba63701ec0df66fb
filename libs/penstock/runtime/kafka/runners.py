"""Owns records from their queue to their answer: one task handles one after another, until one of them has to wait.

That one keeps the task, to be waited for and cancelled by itself, and others take the next records; as many at a time
as lately turned out to wait, up to the bound. Each record has a context of its own, as in a task of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from penstock.contracts.envelope import Outgoing
from penstock.runtime.eager import Rest
from penstock.runtime.kafka.attempts import Attempts, Outcome
from penstock.runtime.kafka.epoch import Delivery, Epoch, Host
from penstock.runtime.kafka.recent import Recent
from penstock.runtime.kafka.records import Received
from penstock.runtime.kafka.settling import Settling
from penstock.runtime.kafka.waiting import Queue

TURN_RECORDS = 64
TURN_SECONDS = 0.002
"""What one round of the loop is kept for at most: others have to run as well, heartbeats among them."""
UNACKNOWLEDGED_MAX = 1000
"""Records whose handler has returned and whose outputs are on their way, on top of those that run."""

AnsweredBefore = Callable[[Epoch, Received], Sequence[Outgoing] | None]
"""What is missing beside an answer from before this assignment; None where there is no answer."""


class Runners:
    """Handles what the queue gives."""

    def __init__(
        self,
        host: Host,
        queue: Queue,
        attempts: Attempts,
        recent: Recent,
        settling: Settling,
        in_flight_max: int,
        identify: Callable[[Received], str],
        answered_before: AnsweredBefore,
    ) -> None:
        self._host = host
        self._queue = queue
        self._attempts = attempts
        self._handler = attempts.handler
        self._recent = recent
        self._settling = settling
        self._in_flight_max = in_flight_max
        self._open_max = in_flight_max + UNACKNOWLEDGED_MAX
        self._identify = identify
        self._answered_before = answered_before
        self._wanted = 1
        """How many may take records at a time: one, unless handlers turn out to wait."""
        self.running = 0
        """Records that hold one of the places for handlers."""

    def start(self, epoch: Epoch) -> None:
        """Take what may begin now, unless enough are at it."""
        while len(epoch.runners) < self._wanted and (delivery := self._take(epoch, monotonic())) is not None:
            epoch.runners.add(self._host.spawn(delivery, self._run(epoch, delivery)))

    def abandon(self, delivery: Delivery) -> None:
        """It was cut off, if it is not over. Its offset stays open, so that it is delivered again."""
        if delivery.over:
            return
        self.free(delivery)
        if delivery.key is not None:
            self._recent.end(delivery.key)
        delivery.epoch.over(delivery)

    def free(self, delivery: Delivery) -> None:
        """Its handler runs no more: its place is another's. Once or often."""
        if delivery.holds_place:
            delivery.holds_place = False
            self.running -= 1
            self._queue.freed(delivery.record)

    def _take(self, epoch: Epoch, now: float) -> Delivery | None:
        if self.running >= self._in_flight_max or epoch.open >= self._open_max or epoch.closed:
            return None
        taken = self._queue.take()
        if taken is None:
            return None
        self.running += 1
        epoch.open += 1
        return Delivery(epoch, *taken, now)

    async def _run(self, epoch: Epoch, first: Delivery) -> None:
        task = asyncio.current_task()
        assert task is not None
        epoch.tasks[task] = None
        delivery: Delivery | None = first
        left, until = TURN_RECORDS, monotonic() + TURN_SECONDS
        while delivery is not None:
            context = self._host.context.copy()
            handling = self._handle(delivery)
            try:
                waits_for = context.run(handling.send, None)
            except StopIteration:
                self._wanted = 1
            except asyncio.CancelledError:
                pass  # a handler's own idea: its record is abandoned, and the next has nothing to do with it
            else:
                epoch.tasks[task] = delivery
                self._let_others(epoch, task)
                await Rest(handling, waits_for, context)
                epoch.tasks[task] = None
                self._settling.send_soon()
                epoch.runners.add(task)
                left, until = TURN_RECORDS, monotonic() + TURN_SECONDS
            if len(epoch.runners) > self._wanted or task.cancelling():
                break
            left -= 1
            now = monotonic()
            if left <= 0 or now > until:
                self._settling.send()
                await asyncio.sleep(0)
                now = monotonic()
                left, until = TURN_RECORDS, now + TURN_SECONDS
            delivery = self._take(epoch, now)
        epoch.runners.discard(task)
        self._settling.send()

    def _let_others(self, epoch: Epoch, task: "asyncio.Task[None]") -> None:
        """This one waits: nobody else has to wait for it, and those behind it probably wait as well."""
        epoch.runners.discard(task)
        self._settling.send()
        self._wanted = min(2 * self._wanted, self._in_flight_max)
        self.start(epoch)

    async def _handle(self, delivery: Delivery) -> None:
        """Up to its answer, or to its end as a dead letter. Raises only what cancels it."""
        record = delivery.record
        try:
            key = self._identify(record)
            if (self._recent.knows(key) or delivery.epoch.answered) and await self._answered(delivery, key):
                return
            delivery.key = key
            self._recent.begin(key)
            try:
                outputs = await self._handler(record)
            except Exception as error:  # noqa: BLE001  # user code may raise anything
                again = await self._attempts.again(record, error)
                if again is None:
                    self.free(delivery)
                    self._settling.dead_lettered(delivery)
                    return
                outputs = again
            self._to_settle(delivery, outputs)
        except Exception as error:  # noqa: BLE001  # whatever it is, the consumer must end rather than drop the record
            self._host.fail(error)
            self.abandon(delivery)
        except BaseException:
            self.abandon(delivery)
            raise

    def _to_settle(self, delivery: Delivery, outputs: Sequence[Outgoing]) -> None:
        """A round trip to the broker is nobody's work: the place is free before it."""
        delivery.outputs = outputs
        self.free(delivery)
        self._settling.add(delivery)

    async def _answered(self, delivery: Delivery, key: str) -> bool:
        """Whether it is answered without being handled. Whoever handles it now is waited for."""
        joined = False
        while (ended := self._recent.running(key)) is not None:
            joined = True
            await asyncio.wait((ended,))
        outputs = self._recent.outputs(key)
        if outputs is None:
            outputs = self._answered_before(delivery.epoch, delivery.record)
            if outputs is None:
                return False
        elif joined:
            outputs = ()  # they have just been acknowledged
        delivery.outcome = Outcome.REMEMBERED
        self._to_settle(delivery, outputs)
        return True

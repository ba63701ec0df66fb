"""Owns what every executor does around its handler: a publisher, a consumer per group, and their end in order."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from penstock.runtime.clock import now_ms
from penstock.runtime.kafka.aside import Aside
from penstock.runtime.kafka.attempts import Handler
from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.cancellations import CancellationReader, Cancellations
from penstock.runtime.kafka.inflight import InFlightConsumer
from penstock.runtime.kafka.lookback import LookBack
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.waiting import Queue
from penstock.runtime.service import Context
from penstock.runtime.work import Answers, request_identity

CANCELS_SECONDS_MAX = 5.0
"""How long work waits for the cancels of the last minutes: what is not known then is done in vain."""


@asynccontextmanager
async def publishing(context: Context[Any]) -> AsyncIterator[Publisher]:
    """What the process says, from here to its end: what was sent by then is flushed."""
    broker = KafkaBroker(context.settings.kafka_bootstrap_servers)
    publisher = Publisher(context.service, broker, instruments=context.instruments)
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


async def execute(
    context: Context[Any],
    groups: Mapping[str, Sequence[str]],
    handler: Handler,
    answers: Answers,
    *,
    in_flight_max: int,
    cancellations: Cancellations,
    queues: Mapping[str, Queue] | None = None,
    publisher: Publisher | None = None,
) -> None:
    """Handles the topics of each group, urgent first, until the service stops; `in_flight_max` counts per group.

    `cancellations` is what the handler heeds; it is told of every cancel from now on, and of those before. A group
    named in `queues` takes its records in that queue's order instead. `publisher` is one that says more than answers;
    left out, answers have one to themselves.
    """
    if publisher is None:
        async with publishing(context) as own:
            await execute(
                context,
                groups,
                handler,
                answers,
                in_flight_max=in_flight_max,
                cancellations=cancellations,
                queues=queues,
                publisher=own,
            )
        return
    settings = context.settings
    broker = KafkaBroker(settings.kafka_bootstrap_servers)
    look_back = LookBack(context.service, broker, answers.topics, answers.usage_again)
    aside = Aside(publisher.send, context.service, "cancellations", now_ms())
    cancels = CancellationReader(broker, cancellations, aside)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(cancels.run(context.stop))
        await cancels.caught_up(CANCELS_SECONDS_MAX)
        consuming = []
        for group_id, topics in groups.items():
            consumer = InFlightConsumer(
                context.service,
                topics,
                group_id,
                handler,
                publisher,
                broker,
                in_flight_max=in_flight_max,
                drain_seconds=settings.drain_seconds,
                look_back=look_back,
                queue=None if queues is None else queues.get(group_id),
                identify=request_identity,
                health=context.health,
                instruments=context.instruments,
            )
            consuming.append(tasks.create_task(consumer.run(context.stop)))
        await asyncio.wait(consuming)
        reading.cancel()

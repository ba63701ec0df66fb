"""Owns what every executor does around its handler: a publisher, a consumer per group, and their end in order."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.runtime.kafka.broker import KafkaBroker
from penstock.runtime.kafka.inflight import Handler, InFlightConsumer
from penstock.runtime.kafka.lookback import LookBack
from penstock.runtime.kafka.publisher import Publisher
from penstock.runtime.kafka.waiting import Queue
from penstock.runtime.service import Context
from penstock.runtime.work import Answers


async def execute(
    context: Context[Any],
    groups: Mapping[str, Sequence[str]],
    handler: Handler,
    answers: Answers,
    *,
    in_flight_max: int,
    queues: Mapping[str, Queue] | None = None,
) -> None:
    """Handles the topics of each group, urgent first, until the service stops; `in_flight_max` counts per group.

    A group named in `queues` takes its records in that queue's order instead.
    """
    settings = context.settings
    broker = KafkaBroker(settings.kafka_bootstrap_servers)
    publisher = Publisher(context.service, broker, instruments=context.instruments)
    look_back = LookBack(context.service, broker, answers.topics, answers.usage_again)
    await publisher.start()
    try:
        async with asyncio.TaskGroup() as consumers:
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
                    health=context.health,
                    instruments=context.instruments,
                )
                consumers.create_task(consumer.run(context.stop))
    finally:
        await publisher.stop()

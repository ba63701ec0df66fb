"""Asks for a run and waits for its end, with aiokafka and the standard library. Nothing of Penstock is needed.

python plain_client.py localhost:9092 greet order-4711 '{"name": "Ada"}'
"""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

PATIENCE_SECONDS = 120.0


async def run(servers: str, workflow: str, run_id: str, body: str) -> bytes:
    """The `run.finished` of the run, as it stands on the topic."""
    request = {"workflow": workflow, "run_id": run_id, "input": json.loads(body)}
    consumer = AIOKafkaConsumer("penstock.run.finished.v1", bootstrap_servers=servers, auto_offset_reset="latest")
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    async with consumer, producer:
        await consumer.seek_to_end()  # look for the end before asking, so that nothing is missed
        await producer.send_and_wait("penstock.run.requested.v1", json.dumps(request).encode())
        async for record in consumer:
            if json.loads(record.value)["run_id"] == run_id:
                return bytes(record.value)
    raise RuntimeError("the consumer ended")


if __name__ == "__main__":
    sys.stdout.buffer.write(asyncio.run(asyncio.wait_for(run(*sys.argv[1:5]), PATIENCE_SECONDS)) + b"\n")
